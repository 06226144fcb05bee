//! The operations that are offered, each handed on. What is not here answers 501 NotImplemented.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use super::{buckets, listing, objects};
use crate::access::HeldKeys;
use crate::front::Shared;

/// Our side of `s3s`.
pub(super) struct Adapter {
    pub(super) shared: Arc<Shared>,
    pub(super) keys: Arc<HeldKeys>,
}

macro_rules! offered {
    ($($operation:ident($input:ident) -> $output:ident = $room:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Adapter {
            $(
                async fn $operation(
                    &self,
                    request: S3Request<$input>,
                ) -> S3Result<S3Response<$output>> {
                    let front = self.shared.front(self.caller(&request).await?);
                    Ok($room::$operation(&front, request).await?)
                }
            )*
        }
    };
}

offered! {
    list_buckets(ListBucketsInput) -> ListBucketsOutput = buckets;
    create_bucket(CreateBucketInput) -> CreateBucketOutput = buckets;
    head_bucket(HeadBucketInput) -> HeadBucketOutput = buckets;
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = buckets;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput = buckets;
    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput = buckets;
    put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput = buckets;
    get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput = buckets;
    get_bucket_acl(GetBucketAclInput) -> GetBucketAclOutput = buckets;
    put_bucket_acl(PutBucketAclInput) -> PutBucketAclOutput = buckets;
    get_bucket_ownership_controls(GetBucketOwnershipControlsInput)
        -> GetBucketOwnershipControlsOutput = buckets;
    get_bucket_policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput = buckets;
    list_objects(ListObjectsInput) -> ListObjectsOutput = listing;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = listing;
    list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput = listing;
    put_object(PutObjectInput) -> PutObjectOutput = objects;
    get_object(GetObjectInput) -> GetObjectOutput = objects;
    head_object(HeadObjectInput) -> HeadObjectOutput = objects;
    copy_object(CopyObjectInput) -> CopyObjectOutput = objects;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = objects;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = objects;
    get_object_acl(GetObjectAclInput) -> GetObjectAclOutput = objects;
    put_object_acl(PutObjectAclInput) -> PutObjectAclOutput = objects;
    get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput = objects;
    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = objects;
}
