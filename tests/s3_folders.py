"""Folders of S3 as its console and Hadoop make them: an empty object whose name ends in a slash."""

import os
import urllib.request


def mark_folder(address):
    """Make a folder at an address of the S3 server that the environment variables name."""
    place = address.removeprefix("s3://").rstrip("/")
    url = f"{os.environ['AWS_ENDPOINT_URL']}/{place}/"
    urllib.request.urlopen(urllib.request.Request(url, data=b"", method="PUT"))
