"""Drives OpenAI servers with the same seeded load in the same run, turn by turn, and prints throughput and latencies.

python bench/serve.py MODEL.gguf [--llama-server PYTHON] [--url NAME=URL ...] [--clients 1,4,16,64] [--out bench/results/x.json]

Starts halfbyte and, under a Python that has the xllamacpp wheel, llama-server on the same file; servers that run already
are named with --url. Clients ask at random (Poisson) times for short answers, summaries of long texts, and chats over one
system prompt of a thousand tokens. Then: the time to the first token with a fresh and with a known system prompt, and what
a prompt of 4,000 tokens does to streams that run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
from compare import FOLDER, machine
from load import Client, long_prompt_beside_streams, poisson, shared_prefix, summary, workload


def main() -> None:
    arguments = parse()
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, command in commands(arguments).items():
            version, url = stack.enter_context(started(command))
            servers[name] = (version, url)
        for item in arguments.url:
            name, _, url = item.partition("=")
            servers[name] = (name, url.rstrip("/").removesuffix("/v1"))
        rows = asyncio.run(measure(servers, arguments))
    print_tables(rows)
    if arguments.out:
        result = {"command": command_of(arguments), "machine": machine(), "results": rows}
        Path(arguments.out).write_text(json.dumps(rounded(result), indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the file that the started servers serve")
    parser.add_argument("--llama-server", metavar="PYTHON", help="a Python with the xllamacpp wheel")
    parser.add_argument("--url", action="append", default=[], metavar="NAME=URL", help="a server that runs already")
    parser.add_argument("--clients", default="1,4,16,64", help="how many at once, level by level (1,4,16,64)")
    parser.add_argument("--requests", type=int, default=48, help="requests of a level, follow-ups not counted (48)")
    parser.add_argument("--pause", type=float, default=0.2, help="mean seconds before each request of a client (0.2)")
    parser.add_argument("-t", type=int, default=2, help="threads of each started server (2)")
    parser.add_argument("-c", type=int, default=8192, help="context in tokens (8192)")
    parser.add_argument("-r", type=int, default=3, help="rounds; every server has its turn in each (3)")
    parser.add_argument("--out", help="write the figures as JSON")
    arguments = parser.parse_args()
    arguments.levels = [int(level) for level in arguments.clients.split(",")]
    return arguments


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """How each server is started; all get the same file, threads, slots and context."""
    slots, model = max(arguments.levels), arguments.model
    out = {
        "halfbyte": [
            *(sys.executable, "-m", "halfbyte", "serve", "-m", model, "--port", "0"),
            *("-t", str(arguments.t), "-np", str(slots), "-c", str(arguments.c)),
        ]
    }
    if arguments.llama_server:
        script = str(FOLDER / "servers" / "xllamacpp_.py")
        out["llama-server"] = [arguments.llama_server, script, model, str(arguments.t), str(slots), str(arguments.c)]
    return out


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[tuple[str, str]]:
    """Runs a server; yields what it says of itself and its URL. It must print a line with its URL when it is ready."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"(.*) at (https?://\S+)", line):
                yield found[1], found[2].rstrip("/")
                break
        else:
            raise RuntimeError(f"{' '.join(command)}: it ended without an address")
    finally:
        process.terminate()
        process.wait()


async def measure(servers: dict[str, tuple[str, str]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a server: its levels (the round of median throughput), the shared prefix, the long prompt."""
    timeout = aiohttp.ClientTimeout(total=1800)
    # A fresh connection for each request: some servers close idle ones just as a client writes its next request.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        clients = {name: Client(session, url, await model_of(session, url)) for name, (_, url) in servers.items()}
        rows = {name: {"server": name, "version": servers[name][0], "levels": {}} for name in servers}
        for client in clients.values():
            await poisson(client, workload(0, 4), 2, 0.0, 0)  # warm-up
        for n_clients in arguments.levels:
            rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
            for turn in range(arguments.r):
                # A system prompt of this round alone: every server starts each round without it.
                asks = workload(1000 * n_clients + turn, arguments.requests)
                for name, client in clients.items():
                    start = time.perf_counter()
                    answers = await poisson(client, asks, n_clients, arguments.pause, turn)
                    rounds[name].append(summary(answers, time.perf_counter() - start))
            for name, measured in rounds.items():
                measured.sort(key=lambda one: one["generated_tokens_per_second"])
                rows[name]["levels"][str(n_clients)] = measured[len(measured) // 2]
        for name, client in clients.items():
            rows[name]["shared_prefix"] = await shared_prefix(client, 0)
            rows[name]["long_prompt_beside_streams"] = await long_prompt_beside_streams(client, 0)
    return list(rows.values())


async def model_of(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(f"{url}/v1/models") as response:
        return str((await response.json())["data"][0]["id"])


def print_tables(rows: list[dict[str, Any]]) -> None:
    """One line a server and level, halfbyte's ratio to the others, then the two single tests."""
    print(
        "| clients | server | tokens/s | the first server is | first token p50, p95 ms | between tokens p50, p95, p99 ms | failed |"
    )
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for level in rows[0]["levels"]:
        ours = rows[0]["levels"][level]["generated_tokens_per_second"]
        for row in rows:
            one = row["levels"][level]
            first, gap = ms(one["first_token_s"]), ms(one["between_tokens_s"])
            speed = one["generated_tokens_per_second"]
            ratio = f"{ours / speed:.2f}x" if speed else ""
            print(f"| {level} | {row['server']} | {speed:.0f} | {ratio} | {first['p50']:.0f}, {first['p95']:.0f} | {gap['p50']:.1f}, {gap['p95']:.1f}, {gap['p99']:.1f} | {one['failed']} |")  # fmt: skip
            if one["errors"]:
                print(f"{row['server']}: {one['errors'][0]}", file=sys.stderr)
    for row in rows:
        prefix, stall = row["shared_prefix"], row["long_prompt_beside_streams"]
        print(
            f"\n{row['server']}: first token after {1000 * prefix['first_s']:.0f} ms with a fresh system prompt of "
            f"{prefix['prompt_tokens']} tokens, {1000 * prefix['later_s']:.0f} ms once it is known "
            f"({prefix['first_s'] / max(prefix['later_s'], 1e-9):.1f}x). Beside a prompt of {stall['prompt_tokens']} tokens, "
            f"the gap between tokens of four streams goes from {1000 * stall['gap_before_s']:.1f} to "
            f"{1000 * stall['gap_during_s']:.1f} ms (longest {1000 * stall['longest_gap_during_s']:.0f} ms)."
        )


def ms(values: dict[str, float]) -> dict[str, float]:
    return {name: 1000 * value for name, value in values.items()}


def command_of(arguments: argparse.Namespace) -> str:
    """The command without this machine's folders."""
    peer = " --llama-server PYTHON" if arguments.llama_server else ""
    urls = "".join(f" --url {item.partition('=')[0]}=URL" for item in arguments.url)
    return (
        f"python bench/serve.py {Path(arguments.model).name}{peer}{urls} --clients {arguments.clients} --requests "
        f"{arguments.requests} --pause {arguments.pause} -t {arguments.t} -c {arguments.c} -r {arguments.r}"
    )


def rounded(value: Any) -> Any:
    """Six significant digits are more than was measured."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
