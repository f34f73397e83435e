"""A client of S3 that is not ours: boto3."""
import boto3
import botocore.config


def s3_client(url, region, access_key, secret_key):
    """Addresses are in path style, signatures of version 4."""
    return boto3.client("s3", endpoint_url=url, region_name=region, aws_access_key_id=access_key,
                        aws_secret_access_key=secret_key,
                        config=botocore.config.Config(signature_version="s3v4", s3={"addressing_style": "path"}))
