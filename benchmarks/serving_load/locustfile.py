"""What a client of the load test does: send one image again and again, and pause where it is told to come later.

Refusals with a reason and a time to come again are counted under a name of their own; anything else that is no
prediction is a failure. Run by ``benchmarks/serving.py``.
"""

import os
from pathlib import Path

import gevent
from locust import FastHttpUser, constant, task

BODY = Path(os.environ["LOAD_BODY"]).read_bytes()
HEADERS = {
    "Authorization": f"Bearer {os.environ['INSPECTION_TOKEN']}",
    "Content-Type": "application/vnd.inspection.image",
    "Accept": os.environ["LOAD_ACCEPT"],
}


class Client(FastHttpUser):
    """Asks as fast as it is answered; after a refusal it waits as `Retry-After` says, unless it is a hasty one."""

    wait_time = constant(0)
    network_timeout = 120.0

    @task
    def predict(self):
        path = os.environ["LOAD_PATH"]
        with self.client.post(path, BODY, headers=HEADERS, name="predict", catch_response=True) as answer:
            refused = answer.status_code in (429, 503) and answer.headers.get("Retry-After")
            if refused and answer.json()["error"]["message"]:
                answer.request_meta["name"] = "refused"
                answer.success()
        if refused and not os.environ.get("LOAD_HASTY"):
            gevent.sleep(float(refused))
