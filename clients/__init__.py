"""One client per service, one way to wait, one settings reader, one redactor, one family of errors."""
