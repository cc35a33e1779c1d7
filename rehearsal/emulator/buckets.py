"""S3: a bucket that holds anything is not deleted. The emulator throws it away with all that is in it, which AWS never does."""

from __future__ import annotations

from ministack.services.cloudformation import provisioners

from rehearsal.emulator.handlers import TABLE, Properties

S3 = provisioners._s3
TYPE = "AWS::S3::Bucket"

_delete = TABLE[TYPE]["delete"]


def complete() -> None:
    """AWS::S3::Bucket."""
    TABLE[TYPE].update(delete=delete)


def delete(name: str, properties: Properties) -> None:
    """Raises ValueError for a bucket with objects, or versions of such."""
    if name in S3._buckets and (S3._buckets[name]["objects"] or S3._bucket_has_versions(name)):
        raise ValueError(f"The bucket you tried to delete is not empty. You must delete all versions in the bucket. ({name})")
    _delete(name, properties)
