//! Operations on buckets.

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::convert;
use super::requests::{Unoffered, acl_is_private};
use crate::encryption::Requested;
use crate::error::ApiError;
use crate::front::{Bucket, BucketPage, Front};
use crate::token;

type Answer<T> = Result<S3Response<T>, ApiError>;

/// Buckets of one page at most, as S3 bounds them.
const BUCKETS_MAX: i32 = 10_000;

pub(super) async fn list_buckets(
    front: &Front,
    request: S3Request<ListBucketsInput>,
) -> Answer<ListBucketsOutput> {
    let input = request.input;
    let start_after = match &input.continuation_token {
        Some(token) => token::parse_continuation(token)?,
        None => String::new(),
    };
    let limit = match input.max_buckets {
        None => None,
        Some(limit) if (1..=BUCKETS_MAX).contains(&limit) => u32::try_from(limit).ok(),
        Some(_) => return Err(ApiError::InvalidArgument("max-buckets is 1 to 10000")),
    };
    let prefix = input.prefix.clone().unwrap_or_default();
    let region = front.region_id().to_string();
    let elsewhere = input.bucket_region.is_some_and(|wanted| wanted != region);
    let page = match elsewhere {
        true => BucketPage::default(),
        false => front.list_buckets(&prefix, &start_after, limit).await?,
    };
    // Old clients ask for all and know no regions of buckets.
    let paged = limit.is_some();
    let buckets = page.buckets.into_iter().map(|bucket| s3s::dto::Bucket {
        bucket_region: paged.then(|| region.clone()),
        creation_date: Some(convert::timestamp(bucket.created_at)),
        name: Some(bucket.name.to_string()),
    });
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets.collect()),
        continuation_token: page.next.as_deref().map(token::continuation),
        owner: Some(owner(front)),
        prefix: input.prefix,
    }))
}

pub(super) async fn create_bucket(
    front: &Front,
    request: S3Request<CreateBucketInput>,
) -> Answer<CreateBucketOutput> {
    let input = request.input;
    let name = convert::bucket(&input.bucket)?;
    let region = front.region_id();
    if let Some(configuration) = &input.create_bucket_configuration {
        let stated = configuration.location_constraint.as_ref();
        if stated.is_some_and(|stated| stated.as_str() != region.as_str()) {
            return Err(ApiError::IllegalLocationConstraint(region.clone()));
        }
        if configuration.bucket.is_some() || configuration.location.is_some() {
            return Err(ApiError::NotImplemented("directory buckets"));
        }
    }
    let enforced = ObjectOwnership::BUCKET_OWNER_ENFORCED;
    let ownership = input.object_ownership.as_ref().map(ObjectOwnership::as_str);
    if ownership.is_some_and(|stated| stated != enforced) {
        return Err(ApiError::NotImplemented(
            "object ownership other than BucketOwnerEnforced",
        ));
    }
    Unoffered {
        acl: input.acl.as_ref().map(BucketCannedACL::as_str),
        grants: input.grant_full_control.is_some()
            || input.grant_read.is_some()
            || input.grant_read_acp.is_some()
            || input.grant_write.is_some()
            || input.grant_write_acp.is_some(),
        ..Unoffered::default()
    }
    .check(front.owner())?;
    let object_lock = input.object_lock_enabled_for_bucket == Some(true);
    front.create_bucket(&name, object_lock).await?;
    Ok(S3Response::new(CreateBucketOutput {
        location: Some(format!("/{name}")),
    }))
}

pub(super) async fn head_bucket(
    front: &Front,
    request: S3Request<HeadBucketInput>,
) -> Answer<HeadBucketOutput> {
    let input = request.input;
    found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    Ok(S3Response::new(HeadBucketOutput {
        bucket_region: Some(front.region_id().to_string()),
        ..HeadBucketOutput::default()
    }))
}

pub(super) async fn delete_bucket(
    front: &Front,
    request: S3Request<DeleteBucketInput>,
) -> Answer<DeleteBucketOutput> {
    let input = request.input;
    let name = convert::bucket(&input.bucket)?;
    owned(front, input.expected_bucket_owner.as_deref())?;
    front.delete_bucket(&name).await?;
    Ok(S3Response::new(DeleteBucketOutput {}))
}

pub(super) async fn get_bucket_location(
    front: &Front,
    request: S3Request<GetBucketLocationInput>,
) -> Answer<GetBucketLocationOutput> {
    let input = request.input;
    found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let region = front.region_id().to_string();
    Ok(S3Response::new(GetBucketLocationOutput {
        location_constraint: Some(BucketLocationConstraint::from(region)),
    }))
}

pub(super) async fn get_bucket_versioning(
    front: &Front,
    request: S3Request<GetBucketVersioningInput>,
) -> Answer<GetBucketVersioningOutput> {
    let input = request.input;
    let bucket = found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let status = match (bucket.info.versioning, bucket.info.suspended) {
        (true, _) => Some(BucketVersioningStatus::ENABLED),
        (false, true) => Some(BucketVersioningStatus::SUSPENDED),
        (false, false) => None,
    };
    Ok(S3Response::new(GetBucketVersioningOutput {
        status: status.map(BucketVersioningStatus::from_static),
        ..GetBucketVersioningOutput::default()
    }))
}

pub(super) async fn put_bucket_versioning(
    front: &Front,
    request: S3Request<PutBucketVersioningInput>,
) -> Answer<PutBucketVersioningOutput> {
    let input = request.input;
    let name = convert::bucket(&input.bucket)?;
    owned(front, input.expected_bucket_owner.as_deref())?;
    if input.mfa.is_some() || input.versioning_configuration.mfa_delete.is_some() {
        return Err(ApiError::NotImplemented("MFA delete"));
    }
    let status = input.versioning_configuration.status;
    let enabled = match status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => true,
        Some(BucketVersioningStatus::SUSPENDED) => false,
        _ => {
            return Err(ApiError::InvalidRequest(
                "the status of versioning is Enabled or Suspended",
            ));
        }
    };
    front.set_versioning(&name, enabled).await?;
    Ok(S3Response::new(PutBucketVersioningOutput {}))
}

pub(super) async fn get_bucket_encryption(
    front: &Front,
    request: S3Request<GetBucketEncryptionInput>,
) -> Answer<GetBucketEncryptionOutput> {
    let input = request.input;
    let bucket = found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let rule = ServerSideEncryptionRule {
        apply_server_side_encryption_by_default: Some(ServerSideEncryptionByDefault {
            kms_master_key_id: Some(bucket.kek().to_string()),
            sse_algorithm: convert::aws_kms(),
        }),
        bucket_key_enabled: Some(false),
    };
    Ok(S3Response::new(GetBucketEncryptionOutput {
        server_side_encryption_configuration: Some(ServerSideEncryptionConfiguration {
            rules: vec![rule],
        }),
    }))
}

/// What is done to every object of the bucket is accepted, and changes nothing; anything else is refused.
pub(super) async fn put_bucket_encryption(
    front: &Front,
    request: S3Request<PutBucketEncryptionInput>,
) -> Answer<PutBucketEncryptionOutput> {
    let input = request.input;
    let rule = encryption(input.server_side_encryption_configuration)?;
    let bucket = found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    rule.check(bucket.kek())?;
    Ok(S3Response::new(PutBucketEncryptionOutput {}))
}

/// The bucket's default is what it was: its own key, as ever.
pub(super) async fn delete_bucket_encryption(
    front: &Front,
    request: S3Request<DeleteBucketEncryptionInput>,
) -> Answer<DeleteBucketEncryptionOutput> {
    let input = request.input;
    found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    Ok(S3Response::new(DeleteBucketEncryptionOutput {}))
}

fn encryption(stated: ServerSideEncryptionConfiguration) -> Result<Requested, ApiError> {
    let malformed = || ApiError::MalformedXml("it has one rule, with a default");
    let [rule]: [_; 1] = stated.rules.try_into().map_err(|_| malformed())?;
    let default = rule.apply_server_side_encryption_by_default;
    let default = default.ok_or_else(malformed)?;
    Ok(Requested {
        algorithm: Some(default.sse_algorithm.as_str().to_owned()),
        key_id: default.kms_master_key_id.filter(|id| !id.is_empty()),
        customer_key: false,
        extras: rule.bucket_key_enabled == Some(true),
    })
}

pub(super) async fn get_bucket_acl(
    front: &Front,
    request: S3Request<GetBucketAclInput>,
) -> Answer<GetBucketAclOutput> {
    let input = request.input;
    found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    Ok(S3Response::new(GetBucketAclOutput {
        grants: Some(vec![owner_grant(front)]),
        owner: Some(owner(front)),
    }))
}

pub(super) async fn put_bucket_acl(
    front: &Front,
    request: S3Request<PutBucketAclInput>,
) -> Answer<PutBucketAclOutput> {
    let input = request.input;
    found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let acl = input.acl.as_ref().map(BucketCannedACL::as_str);
    let grants = input.grant_full_control.is_some()
        || input.grant_read.is_some()
        || input.grant_read_acp.is_some()
        || input.grant_write.is_some()
        || input.grant_write_acp.is_some();
    only_private(front, acl, grants, input.access_control_policy.as_ref())?;
    Ok(S3Response::new(PutBucketAclOutput {}))
}

pub(super) async fn get_bucket_ownership_controls(
    front: &Front,
    request: S3Request<GetBucketOwnershipControlsInput>,
) -> Answer<GetBucketOwnershipControlsOutput> {
    let input = request.input;
    found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let enforced = ObjectOwnership::from_static(ObjectOwnership::BUCKET_OWNER_ENFORCED);
    let rule = OwnershipControlsRule {
        object_ownership: enforced,
    };
    Ok(S3Response::new(GetBucketOwnershipControlsOutput {
        ownership_controls: Some(OwnershipControls { rules: vec![rule] }),
    }))
}

pub(super) async fn put_bucket_ownership_controls(
    front: &Front,
    request: S3Request<PutBucketOwnershipControlsInput>,
) -> Answer<PutBucketOwnershipControlsOutput> {
    let input = request.input;
    found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let rules = input.ownership_controls.rules;
    let enforced = |rule: &OwnershipControlsRule| {
        rule.object_ownership.as_str() == ObjectOwnership::BUCKET_OWNER_ENFORCED
    };
    match rules.as_slice() {
        [rule] if enforced(rule) => Ok(S3Response::new(PutBucketOwnershipControlsOutput {})),
        [_] => Err(ApiError::NotImplemented(
            "object ownership other than BucketOwnerEnforced",
        )),
        _ => Err(ApiError::MalformedXml("it has one rule")),
    }
}

pub(super) async fn get_bucket_policy_status(
    front: &Front,
    request: S3Request<GetBucketPolicyStatusInput>,
) -> Answer<GetBucketPolicyStatusOutput> {
    let input = request.input;
    found(front, &input.bucket, input.expected_bucket_owner.as_deref()).await?;
    Ok(S3Response::new(GetBucketPolicyStatusOutput {
        policy_status: Some(PolicyStatus {
            is_public: Some(false),
        }),
    }))
}

/// The bucket, where the owner is whom the request expects.
pub(super) async fn found(
    front: &Front,
    name: &str,
    expected_owner: Option<&str>,
) -> Result<Bucket, ApiError> {
    owned(front, expected_owner)?;
    front.bucket(&convert::bucket(name)?).await
}

pub(super) fn owned(front: &Front, expected: Option<&str>) -> Result<(), ApiError> {
    match expected {
        Some(expected) if expected != front.owner() => Err(ApiError::AccessDenied),
        _ => Ok(()),
    }
}

/// A list that gives the owner alone access changes nothing; any other is refused.
pub(super) fn only_private(
    front: &Front,
    acl: Option<&str>,
    grants: bool,
    policy: Option<&AccessControlPolicy>,
) -> Result<(), ApiError> {
    let owners = |policy: &AccessControlPolicy| {
        policy.grants.iter().flatten().all(|grant| {
            let id = grant
                .grantee
                .as_ref()
                .and_then(|grantee| grantee.id.as_deref());
            id == Some(front.owner())
        })
    };
    if grants || !acl_is_private(acl) || !policy.is_none_or(owners) {
        return Err(ApiError::AccessControlListNotSupported);
    }
    Ok(())
}

pub(super) fn owner(front: &Front) -> Owner {
    Owner {
        display_name: Some(front.region_id().to_string()),
        id: Some(front.owner().to_owned()),
    }
}

pub(super) fn owner_grant(front: &Front) -> Grant {
    let owner = owner(front);
    Grant {
        grantee: Some(Grantee {
            display_name: owner.display_name,
            email_address: None,
            id: owner.id,
            type_: Type::from_static(Type::CANONICAL_USER),
            uri: None,
        }),
        permission: Some(Permission::from_static(Permission::FULL_CONTROL)),
    }
}
