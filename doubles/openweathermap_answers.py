"""OpenWeatherMap's documented example answers (openweathermap.org/current and /forecast5), in metric units.

They are for Zocca, Italy, at 2022-08-30T14:43:12Z. The numbers are the documentation's; its example is in kelvin, so
the temperatures are 273.15 less.
"""

from __future__ import annotations

import json

LATITUDE, LONGITUDE = 44.34, 10.99

CURRENT = {
    "coord": {"lon": 10.99, "lat": 44.34},
    "weather": [{"id": 501, "main": "Rain", "description": "moderate rain", "icon": "10d"}],
    "base": "stations",
    "main": {
        "temp": 25.33,
        "feels_like": 25.59,
        "temp_min": 24.41,
        "temp_max": 26.9,
        "pressure": 1015,
        "humidity": 64,
        "sea_level": 1015,
        "grnd_level": 933,
    },
    "visibility": 10000,
    "wind": {"speed": 0.62, "deg": 349, "gust": 1.18},
    "rain": {"1h": 3.16},
    "clouds": {"all": 100},
    "dt": 1661870592,
    "sys": {"type": 2, "id": 2075663, "country": "IT", "sunrise": 1661834187, "sunset": 1661882248},
    "timezone": 7200,
    "id": 3163858,
    "name": "Zocca",
    "cod": 200,
}

FORECAST = {
    "cod": "200",
    "message": 0,
    "cnt": 1,
    "list": [
        {
            "dt": 1661871600,
            "main": {"temp": 23.61, "feels_like": 23.83, "pressure": 1015, "humidity": 69},
            "weather": [{"id": 500, "main": "Rain", "description": "light rain", "icon": "10d"}],
            "clouds": {"all": 100},
            "wind": {"speed": 0.62, "deg": 349, "gust": 1.18},
            "visibility": 10000,
            "pop": 0.32,
            "rain": {"3h": 0.26},
            "sys": {"pod": "d"},
            "dt_txt": "2022-08-30 15:00:00",
        }
    ],
    "city": {"id": 3163858, "name": "Zocca", "country": "IT", "timezone": 7200},
}

INVALID_KEY = {
    "cod": 401,
    "message": "Invalid API key. Please see https://openweathermap.org/faq#error401 for more info.",
}


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()
