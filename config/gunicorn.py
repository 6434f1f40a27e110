"""How gunicorn serves the site: `gunicorn -c config/gunicorn.py config.wsgi`."""

import os

_host = os.environ.get("HOST", "127.0.0.1")
bind = f"{f'[{_host}]' if ':' in _host else _host}:{os.environ.get('PORT', '8000')}"
# Threads: requests wait for the database, the encoder and slow clients, and share one index in memory.
worker_class = "gthread"
threads = 16
keepalive = 65
timeout = 120
loglevel = "warning"
control_socket_disable = True
