//! Presigned addresses (Signature Version 4, in the query): the bucket's own tickets.
//!
//! Invariants: an address is for one key, one method and a bounded time; no request is made for it. What a header pins is signed as
//! a header, never hoisted into the query, where S3 does not enforce it.

use std::time::Duration;

use aws_sdk_s3::{
    error::DisplayErrorContext,
    presigning::{PresignedRequest, PresigningConfig},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::Inner;
use crate::{
    error::{Error, ErrorKind, Result},
    store::address::{Access, Address, Asked},
};

impl Inner {
    /// An address in this bucket.
    pub(super) async fn address(&self, asked: &Asked) -> Result<Address> {
        let config = PresigningConfig::expires_in(asked.life.clamp(LIFE_MIN, LIFE_MAX))
            .map_err(|error| Error::invalid(error.to_string()))?;
        let mut place = aws_sdk_s3::config::Builder::new();
        if let Some(endpoint) = &asked.endpoint {
            place.set_endpoint_url(Some(endpoint.clone()));
        }
        let (bucket, key) = (&self.settings.bucket, self.key(&asked.key));
        let put = self.client.put_object().bucket(bucket).key(&key);
        let presigned = match asked.access {
            Access::Read => {
                let get = self.client.get_object().bucket(bucket).key(&key);
                told(Box::pin(get.customize().config_override(place).presigned(config)).await)?
            }
            Access::Create => told(Box::pin(put.customize().config_override(place).presigned(config)).await)?,
            Access::CreateExactly { bytes, sha256 } => {
                let bytes =
                    i64::try_from(bytes).map_err(|_| Error::invalid("an upload of more bytes than there are"))?;
                let put = put.content_length(bytes).checksum_sha256(STANDARD.encode(sha256)).if_none_match("*");
                told(Box::pin(put.customize().config_override(place).presigned(config)).await)?
            }
        };
        let headers = presigned.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Address { url: presigned.uri().to_owned(), headers })
    }
}

/// Signing fails for want of credentials, or of a clock that can be told.
fn told<E: std::error::Error + 'static>(signed: std::result::Result<PresignedRequest, E>) -> Result<PresignedRequest> {
    signed.map_err(|error| {
        let text = format!("signing an address in the bucket: {}", DisplayErrorContext(error));
        Error::new(ErrorKind::Unavailable, text)
    })
}

const LIFE_MIN: Duration = Duration::from_secs(1);
/// S3 signs for no longer than a week.
const LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
