//! On whose behalf a gateway's calls are made.
//!
//! Owns that every call of a handle says so, to storage nodes in a header and to the KMS in the claim: both ask policy about
//! the gateway and about the service principal it names. Refuses to let one call of such a handle name somebody else.

use std::sync::Arc;

use proto::ids::Identity;
use proto::v1;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use transport::Stated;

/// A channel whose requests say on whose behalf they are made.
pub(crate) type ActingChannel = InterceptedService<Channel, Acting>;

/// Whom calls are made for, nobody else unless said, and what for: everyday service, unless said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Acting {
    principal: Option<Arc<str>>,
    purpose: &'static str,
}

impl Acting {
    pub(crate) fn for_principal(principal: &Identity) -> Self {
        Self {
            principal: Some(principal.to_string().into()),
            purpose: "",
        }
    }

    /// For nobody else, and for this purpose in every call and claim.
    pub(crate) fn for_purpose(purpose: &'static str) -> Self {
        Self {
            principal: None,
            purpose,
        }
    }

    /// Whom a request is made for, that states `stated` of itself.
    pub(crate) fn on_behalf_of(&self, stated: &str) -> String {
        self.principal.as_deref().unwrap_or(stated).to_owned()
    }

    /// What a request is made for, that states `stated` of itself.
    pub(crate) fn purpose(&self, stated: &'static str) -> &'static str {
        match self.purpose {
            "" => stated,
            purpose => purpose,
        }
    }

    /// The claim of a request that states nothing else.
    pub(crate) fn claim(&self) -> v1::Claim {
        v1::Claim {
            on_behalf_of: self.on_behalf_of(""),
            purpose: self.purpose("").to_owned(),
            ..v1::Claim::default()
        }
    }

    /// The channel, to be called through.
    pub(crate) fn over(&self, channel: Channel) -> ActingChannel {
        InterceptedService::new(channel, self.clone())
    }
}

impl Interceptor for Acting {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let stated = Stated {
            purpose: self.purpose("").to_owned(),
            on_behalf_of: self.on_behalf_of(""),
            ..Stated::default()
        };
        // Nothing that is empty is written.
        stated.write(request.metadata_mut());
        transport::spans::write(request.metadata_mut());
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINCIPAL: &str = "spiffe://ch-zrh/service/backup";

    #[test]
    fn a_handle_for_a_principal_names_it_and_nobody_else() {
        let principal = PRINCIPAL.parse().expect("an identity");
        let acting = Acting::for_principal(&principal);
        assert_eq!(acting.on_behalf_of(""), PRINCIPAL);
        assert_eq!(
            acting.on_behalf_of("spiffe://ch-zrh/service/other"),
            PRINCIPAL
        );
        assert_eq!(acting.claim().on_behalf_of, PRINCIPAL);
        let nobody = Acting::default();
        assert_eq!(nobody.on_behalf_of("night shift"), "night shift");
        assert_eq!(nobody.claim(), v1::Claim::default());
    }

    #[test]
    fn a_handle_for_a_purpose_states_it_in_headers_and_claims() {
        let mut acting = Acting::for_purpose("relocation");
        assert_eq!(acting.claim().purpose, "relocation");
        assert_eq!(acting.purpose("reseal"), "relocation");
        let request = acting.call(Stated::default().of(())).expect("passed on");
        let stated = request.metadata().get("reduit-purpose");
        assert_eq!(
            stated.and_then(|purpose| purpose.to_str().ok()),
            Some("relocation")
        );
        assert_eq!(Acting::default().purpose("reseal"), "reseal");
    }

    /// Also where the request named another one by itself.
    #[test]
    fn every_request_of_such_a_handle_says_so_in_its_header() {
        let principal = PRINCIPAL.parse().expect("an identity");
        let header = |acting: &mut Acting, stated: &str| {
            let stated = Stated {
                on_behalf_of: stated.to_owned(),
                ..Stated::default()
            };
            let request = acting.call(stated.of(())).expect("passed on");
            let values = request.metadata().get_all_bin("reduit-on-behalf-of-bin");
            let bytes = |value: &tonic::metadata::BinaryMetadataValue| value.to_bytes();
            let values: Vec<_> = values.iter().map(bytes).collect();
            values
                .into_iter()
                .map(|v| v.expect("bytes"))
                .collect::<Vec<_>>()
        };
        let mut acting = Acting::for_principal(&principal);
        assert_eq!(header(&mut acting, ""), [PRINCIPAL.as_bytes()]);
        let other = "spiffe://ch-zrh/service/other";
        assert_eq!(header(&mut acting, other), [PRINCIPAL.as_bytes()]);
        let mut nobody = Acting::default();
        assert!(header(&mut nobody, "").is_empty());
        assert_eq!(header(&mut nobody, other), [other.as_bytes()]);
    }
}
