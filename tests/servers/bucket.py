"""Makes a bucket: bucket.py ENDPOINT NAME KEY SECRET."""

import sys

import boto3
from botocore.config import Config

endpoint, name, key, secret = sys.argv[1:]
boto3.client(
    "s3",
    endpoint_url=endpoint,
    aws_access_key_id=key,
    aws_secret_access_key=secret,
    region_name="us-east-1",
    config=Config(s3={"addressing_style": "path"}),
).create_bucket(Bucket=name)
