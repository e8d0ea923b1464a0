//! `google.protobuf.Any` with a shared payload, and the resource types of the control stream.

use bytes::Bytes;
use prost::Message;

use crate::mesh;

/// `google.protobuf.Any` whose payload is reference-counted: one serialization serves every stream.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Any {
    /// `type.googleapis.com/<message>`.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The serialized message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// The resource types of the control stream, in the order in which a sidecar should apply them (make before break:
/// what guards a workload arrives before the workload).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// [`mesh::MeshDefaults`].
    MeshDefaults,
    /// [`mesh::TrustBundle`].
    TrustBundle,
    /// [`mesh::Revocation`].
    Revocation,
    /// [`mesh::KeySet`].
    KeySet,
    /// [`mesh::PeerAuthentication`].
    PeerAuthentication,
    /// [`mesh::RequestAuthentication`].
    RequestAuthentication,
    /// [`mesh::AuthorizationPolicy`].
    AuthorizationPolicy,
    /// [`mesh::LatencyBudget`].
    LatencyBudget,
    /// [`mesh::Service`].
    Service,
    /// [`mesh::Workload`].
    Workload,
}

impl ResourceType {
    /// Every type, in order of application.
    pub const ALL: [Self; 10] = [
        Self::MeshDefaults,
        Self::TrustBundle,
        Self::Revocation,
        Self::KeySet,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::AuthorizationPolicy,
        Self::LatencyBudget,
        Self::Service,
        Self::Workload,
    ];

    /// The type URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::MeshDefaults => "type.googleapis.com/postern.mesh.v1.MeshDefaults",
            Self::TrustBundle => "type.googleapis.com/postern.mesh.v1.TrustBundle",
            Self::Revocation => "type.googleapis.com/postern.mesh.v1.Revocation",
            Self::KeySet => "type.googleapis.com/postern.mesh.v1.KeySet",
            Self::RequestAuthentication => {
                "type.googleapis.com/postern.mesh.v1.RequestAuthentication"
            }
            Self::PeerAuthentication => "type.googleapis.com/postern.mesh.v1.PeerAuthentication",
            Self::AuthorizationPolicy => "type.googleapis.com/postern.mesh.v1.AuthorizationPolicy",
            Self::LatencyBudget => "type.googleapis.com/postern.mesh.v1.LatencyBudget",
            Self::Service => "type.googleapis.com/postern.mesh.v1.Service",
            Self::Workload => "type.googleapis.com/postern.mesh.v1.Workload",
        }
    }

    /// The kind, as manifests and tables name it.
    pub fn kind(self) -> &'static str {
        self.type_url().rsplit('.').next().unwrap_or_default()
    }

    /// The type of a URL; `None` for one we do not know.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.type_url() == url)
    }
}

/// A message that travels as a resource of one type.
pub trait TypedResource: Message + Default {
    /// The resource type.
    const TYPE: ResourceType;

    /// The resource's name on the stream.
    fn resource_name(&self) -> String;

    /// Packs the message for the wire.
    fn to_any(&self) -> Any {
        Any {
            type_url: Self::TYPE.type_url().to_owned(),
            value: self.encode_to_vec().into(),
        }
    }
}

macro_rules! typed {
    ($message:ty, $kind:ident, |$m:ident| $name:expr) => {
        impl TypedResource for $message {
            const TYPE: ResourceType = ResourceType::$kind;
            fn resource_name(&self) -> String {
                let $m = self;
                $name
            }
        }
    };
}

typed!(mesh::MeshDefaults, MeshDefaults, |_m| "default".to_owned());
typed!(mesh::TrustBundle, TrustBundle, |m| m.trust_domain.clone());
typed!(mesh::Revocation, Revocation, |m| m.name.clone());
typed!(mesh::KeySet, KeySet, |m| m.name.clone());
typed!(mesh::PeerAuthentication, PeerAuthentication, |m| format!(
    "{}/{}",
    m.namespace, m.name
));
typed!(mesh::RequestAuthentication, RequestAuthentication, |m| {
    format!("{}/{}", m.namespace, m.name)
});
typed!(mesh::AuthorizationPolicy, AuthorizationPolicy, |m| format!(
    "{}/{}",
    m.namespace, m.name
));
typed!(mesh::LatencyBudget, LatencyBudget, |m| format!(
    "{}/{}",
    m.namespace, m.name
));
typed!(mesh::Service, Service, |m| format!(
    "{}/{}",
    m.namespace, m.name
));
typed!(mesh::Workload, Workload, |m| m.uid.clone());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_url_maps_back_to_its_type() {
        for t in ResourceType::ALL {
            assert_eq!(ResourceType::from_type_url(t.type_url()), Some(t));
        }
        assert_eq!(
            ResourceType::from_type_url("type.googleapis.com/postern.mesh.v1.Nothing"),
            None
        );
    }

    #[test]
    fn any_is_wire_identical_to_the_well_known_type() {
        let ours = Any {
            type_url: "t".into(),
            value: Bytes::from_static(b"abc"),
        };
        let theirs = prost_types::Any {
            type_url: "t".into(),
            value: b"abc".to_vec(),
        };
        assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
    }
}
