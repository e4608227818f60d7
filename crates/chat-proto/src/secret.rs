//! What tells the cluster's own replicas and operators from whoever else reaches the port.

use std::fmt;
use tonic::Status;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

/// Where it travels: metadata of `ReplicaService.Session`, `AdminService.DeclareCrashed` and `AdminService.Transfer`.
const KEY: &str = "chat-cluster-secret";
const CONTEXT: &str = "chat.v1 cluster secret";

/// A cluster's secret, as it travels: a hash in hexadecimal digits, so that any bytes will do. It authenticates
/// against those who cannot listen on the network; it encrypts nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret(blake3::Hash);

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

impl ClusterSecret {
    /// Of these bytes.
    pub fn new(secret: &[u8]) -> ClusterSecret {
        ClusterSecret(blake3::derive_key(CONTEXT, secret).into())
    }

    /// Puts it into a request's metadata.
    pub fn attach(&self, metadata: &mut MetadataMap) {
        let mut value: MetadataValue<Ascii> = self.0.to_hex().as_str().parse().expect("hexadecimal digits are ASCII");
        value.set_sensitive(true);
        metadata.insert(KEY, value);
    }

    /// Whether a request's metadata has it.
    ///
    /// # Errors
    /// `Unauthenticated`, if not.
    pub fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(sent) = metadata.get(KEY) else {
            return Err(Status::unauthenticated("the cluster's secret is needed for this, and none was sent"));
        };
        // Hashes compare in constant time.
        match blake3::Hash::from_hex(sent.as_encoded_bytes()) {
            Ok(sent) if sent == self.0 => Ok(()),
            _ => Err(Status::unauthenticated("the cluster's secret is needed for this, and another one was sent")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn only_the_same_secret_is_admitted() {
        let secret = ClusterSecret::new(b"any bytes \0\xff");
        let mut metadata = MetadataMap::new();
        let refused = |metadata: &MetadataMap| secret.admit(metadata).map_err(|status| status.code());
        assert_eq!(refused(&metadata), Err(Code::Unauthenticated));
        ClusterSecret::new(b"any bytes").attach(&mut metadata);
        assert_eq!(refused(&metadata), Err(Code::Unauthenticated));
        metadata.insert(KEY, MetadataValue::from_static("no hash"));
        assert_eq!(refused(&metadata), Err(Code::Unauthenticated));
        secret.attach(&mut metadata);
        assert_eq!(refused(&metadata), Ok(()));
    }

    #[test]
    fn it_is_never_shown() {
        let secret = ClusterSecret::new(b"correct horse battery staple");
        let mut metadata = MetadataMap::new();
        secret.attach(&mut metadata);
        let shown = format!("{secret:?} {metadata:?}");
        assert!(!shown.contains(secret.0.to_hex().as_str()), "{shown}");
    }
}
