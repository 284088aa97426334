"""Online: the Litestar application around one bundle. Imports `forecasting`, and neither `pipelines` nor `ci`."""
