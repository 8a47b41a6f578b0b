"""`vexp report`: what a sweep found, as one HTML page that needs nothing but itself."""
