"""The programs beside which the service is measured: the bare framework, and other servers with the same trees."""
