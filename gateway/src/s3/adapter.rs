//! The operations that are offered, each handed on. What is not here answers 501 NotImplemented.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use super::{buckets, cors, lifecycle, listing, locks, multipart, objects, tagging};
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
    put_bucket_encryption(PutBucketEncryptionInput) -> PutBucketEncryptionOutput = buckets;
    delete_bucket_encryption(DeleteBucketEncryptionInput) -> DeleteBucketEncryptionOutput = buckets;
    get_bucket_acl(GetBucketAclInput) -> GetBucketAclOutput = buckets;
    put_bucket_acl(PutBucketAclInput) -> PutBucketAclOutput = buckets;
    get_bucket_ownership_controls(GetBucketOwnershipControlsInput)
        -> GetBucketOwnershipControlsOutput = buckets;
    put_bucket_ownership_controls(PutBucketOwnershipControlsInput)
        -> PutBucketOwnershipControlsOutput = buckets;
    get_bucket_policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput = buckets;
    get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput)
        -> GetBucketLifecycleConfigurationOutput = lifecycle;
    put_bucket_lifecycle_configuration(PutBucketLifecycleConfigurationInput)
        -> PutBucketLifecycleConfigurationOutput = lifecycle;
    delete_bucket_lifecycle(DeleteBucketLifecycleInput) -> DeleteBucketLifecycleOutput = lifecycle;
    get_object_lock_configuration(GetObjectLockConfigurationInput)
        -> GetObjectLockConfigurationOutput = locks;
    put_object_lock_configuration(PutObjectLockConfigurationInput)
        -> PutObjectLockConfigurationOutput = locks;
    get_object_retention(GetObjectRetentionInput) -> GetObjectRetentionOutput = locks;
    put_object_retention(PutObjectRetentionInput) -> PutObjectRetentionOutput = locks;
    get_object_legal_hold(GetObjectLegalHoldInput) -> GetObjectLegalHoldOutput = locks;
    put_object_legal_hold(PutObjectLegalHoldInput) -> PutObjectLegalHoldOutput = locks;
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
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput = multipart;
    upload_part(UploadPartInput) -> UploadPartOutput = multipart;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = multipart;
    list_parts(ListPartsInput) -> ListPartsOutput = multipart;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput = multipart;
    complete_multipart_upload(CompleteMultipartUploadInput)
        -> CompleteMultipartUploadOutput = multipart;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput = multipart;
    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = tagging;
    put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput = tagging;
    delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput = tagging;
    get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput = tagging;
    put_bucket_tagging(PutBucketTaggingInput) -> PutBucketTaggingOutput = tagging;
    delete_bucket_tagging(DeleteBucketTaggingInput) -> DeleteBucketTaggingOutput = tagging;
    get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput = cors;
    put_bucket_cors(PutBucketCorsInput) -> PutBucketCorsOutput = cors;
    delete_bucket_cors(DeleteBucketCorsInput) -> DeleteBucketCorsOutput = cors;
}
