"""Time how long a folder of many Parquet files takes to describe, behind a slow object store.

A server in a process of its own answers as S3 does, each request after a pause of 50 ms. Prints a
Markdown table of seconds, requests and memory by the number of files. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import os
import re
import time
from itertools import islice
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from dkmeans import Dataset

PAUSE_SECONDS = 0.05
COLUMNS = 16
# Files in a page of a listing, as S3 gives them.
PAGE = 1000


def file_bytes() -> bytes:
    """Return a Parquet file of 1,000 rows in two row groups."""
    rows = np.random.default_rng(0).normal(size=(1000, COLUMNS)).astype(np.float32)
    data = io.BytesIO()
    names = [f"x{number}" for number in range(COLUMNS)]
    pq.write_table(pa.table(list(rows.T), names=names), data, row_group_size=500)
    return data.getvalue()


class Server:
    """A bucket `s3://many` with folders of any number of equal files: `s3://many/10000/`."""

    def __init__(self) -> None:
        self.data = file_bytes()
        self.requests = 0
        self.under_way = self.most_under_way = 0

    async def serve(self, pipe: Connection) -> None:
        """Send the port, and the numbers of requests whenever something is received."""
        server = await asyncio.start_server(self.answer, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        while True:
            if pipe.poll():
                pipe.recv()
                pipe.send((self.requests, self.most_under_way))
                self.requests = self.most_under_way = 0
            await asyncio.sleep(0.01)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while head := await self.head_of(reader):
            self.requests += 1
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            await asyncio.sleep(PAUSE_SECONDS)
            writer.write(self.response(head))
            self.under_way -= 1
            await writer.drain()
        writer.close()

    async def head_of(self, reader: asyncio.StreamReader) -> str:
        """Return the head of the next request; empty at the end of the connection."""
        try:
            return (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            return ""

    def response(self, head: str) -> bytes:
        """Return the response to a request."""
        method, target, _ = head.split(" ", 2)
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if "list-type" in query:
            return http(200, self.listing(query).encode(), "content-type: application/xml\r\n")
        if not re.fullmatch(r"/many/\d+/part-\d+\.parquet", url.path):
            return http(404, b"")
        found = re.search(r"range: bytes=(\d+)-(\d+)", head, re.IGNORECASE)
        about = 'etag: "1"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n'
        if method == "HEAD" or not found:
            return http(200, self.data, about, is_head=method == "HEAD")
        first, last = map(int, found.groups())
        part = self.data[first : last + 1]
        about += f"content-range: bytes {first}-{first + len(part) - 1}/{len(self.data)}\r\n"
        return http(206, part, about)

    def listing(self, query: dict[str, str]) -> str:
        """Return one page of the names in a folder."""
        folder = query["prefix"].rstrip("/")
        start = int(query.get("continuation-token", 0))
        count = int(folder) if folder.isdigit() else 0
        stop = min(start + PAGE, count)
        files = "".join(
            f"<Contents><Key>{folder}/part-{number}.parquet</Key><Size>{len(self.data)}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag></Contents>"
            for number in range(start, stop)
        )
        more = stop < count
        token = f"<NextContinuationToken>{stop}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
            f"<Prefix>{folder}/</Prefix><KeyCount>{stop - start}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{files}</ListBucketResult>"
        )


def http(status: int, body: bytes, more: str = "", *, is_head: bool = False) -> bytes:
    """Return a response of HTTP."""
    head = f"HTTP/1.1 {status} -\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + (b"" if is_head else body)


def serve(pipe: Connection) -> None:
    """Run the server until the process is ended."""
    asyncio.run(Server().serve(pipe))


def main() -> None:
    """Describe folders of several sizes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=int, default=[100, 1000, 10_000])
    sizes = parser.parse_args().files
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_REGION": "us-east-1",
    }
    print("| files | seconds | requests | most under way | MB of memory more |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        before, began = psutil.Process().memory_info().rss, time.perf_counter()
        dataset = Dataset.from_parquet(f"s3://many/{size}")
        seconds = time.perf_counter() - began
        more = (psutil.Process().memory_info().rss - before) / 1e6
        assert dataset.rows == 1000 * size
        assert len(list(islice(next(dataset.batches()), size))) == size
        ours.send("requests")
        requests, most = ours.recv()
        print(f"| {size:,} | {seconds:.1f} | {requests:,} | {most} | {more:.0f} |", flush=True)
    server.kill()  # obstore keeps its connections
    server.join()


if __name__ == "__main__":
    main()
