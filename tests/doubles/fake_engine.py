"""Stands in for SGLang in tests of the launcher: `python fake_engine.py PORT FOLDER PLAN`. It has no model.

FOLDER/starts counts its starts. PLAN says what each does, comma-separated, the last for all after it:
  fail   writes a traceback and exits with 1
  hang   runs, never healthy
  serve  is healthy; a child named sglang::scheduler runs beside it and its process id is in FOLDER/scheduler
  deaf   as serve, and heeds no SIGTERM
"""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc


def main(port: str, folder: Path, plan: list[str]) -> None:
    starts = folder / "starts"
    count = int(starts.read_text()) if starts.exists() else 0
    starts.write_text(str(count + 1))
    step = plan[min(count, len(plan) - 1)]
    print("Launching scheduler process(es)...", flush=True)
    if step == "fail":
        raise RuntimeError("There is no such model")
    if step == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if step != "hang":
        idle = ["sglang::scheduler", "-c", "import time; time.sleep(600)"]
        scheduler = subprocess.Popen(idle, executable=sys.executable)
        (folder / "scheduler").write_text(str(scheduler.pid))
        server = grpc.server(ThreadPoolExecutor(2))
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(","))
