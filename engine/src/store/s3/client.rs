//! Talking to S3: a client in which everything is explicit, and what became of a request.
//!
//! Invariants: the SDK retries nothing (a conditional write that is repeated may meet itself); every attempt ends in bounded
//! time, by its size; only a request that surely had no effect, or that may be repeated, is repeated; checksums are pinned
//! by us and never by trailers, which S3-compatible stores trip over.

use std::time::Duration;

use aws_credential_types::{
    Credentials,
    provider::{SharedCredentialsProvider, error::CredentialsError},
};
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
        http::HttpResponse, retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};

use super::{Pace, S3Settings};
use crate::error::{Error, ErrorKind};

/// What a failed request means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// Something stands under the key.
    Exists,
    /// A race with another conditional write: it may be repeated.
    Raced,
    /// Nothing stands under the key.
    Absent,
    /// A range that the object has not.
    Range,
    /// Nothing was done, and it may be tried again later.
    Later,
    /// Nothing was done, and trying again does not help.
    Refused,
    /// It may have been done.
    Unknown,
}

/// How a request went, and if it failed, what that means.
pub(super) type Tried<T> = std::result::Result<T, (Failure, Error)>;

/// A client for `settings`. Credentials come from the usual chain: environment, profile files, web identity, container, IMDS.
pub(super) async fn connect(settings: &S3Settings) -> Client {
    let region = Region::new(settings.region.clone());
    let credentials = match &settings.credentials {
        Some((key, secret)) => SharedCredentialsProvider::new(Credentials::new(key, secret, None, None, "given")),
        None => {
            let chain = aws_config::default_provider::credentials::DefaultCredentialsChain::builder();
            SharedCredentialsProvider::new(chain.region(region.clone()).build().await)
        }
    };
    let stalled = StalledStreamProtectionConfig::enabled()
        .upload_enabled(true)
        .download_enabled(true)
        .grace_period(STALL_GRACE)
        .build();
    let mut config = aws_sdk_s3::Config::builder();
    config.set_endpoint_url(settings.endpoint.clone());
    let config = config
        .behavior_version(BehaviorVersion::latest())
        .region(region)
        .force_path_style(settings.path_style)
        .credentials_provider(credentials)
        .retry_config(RetryConfig::disabled())
        .timeout_config(settings.pace.timeouts(0))
        .stalled_stream_protection(stalled)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Client::from_conf(config)
}

impl Pace {
    /// Time for a request that moves `bytes`: the SDK's read timeout runs from the start of the request, its body included.
    pub(super) fn timeouts(&self, bytes: u64) -> TimeoutConfig {
        let attempt = self.patience(bytes);
        TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(attempt)
            .operation_attempt_timeout(attempt)
            .operation_timeout(attempt)
            .build()
    }

    /// How long one attempt at moving `bytes` may take.
    pub(super) fn patience(&self, bytes: u64) -> Duration {
        self.request + Duration::from_millis(bytes / self.bytes_per_ms_min.max(1))
    }
}

/// What a failed request means. A missing key is told from a missing bucket or an endpoint that is no store by the code.
pub(super) fn judge<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Failure {
    match error {
        SdkError::ConstructionFailure(_) => Failure::Refused,
        SdkError::DispatchFailure(sent) if sent.is_user() => Failure::Refused,
        SdkError::DispatchFailure(sent) if sent.as_connector_error().is_some_and(|error| lacks_credentials(error)) => {
            Failure::Refused
        }
        SdkError::ServiceError(answer) => of_answer(answer.raw().status().as_u16(), answer.err().code()),
        // Timeouts, resets, answers that are none; the enum may grow.
        _ => Failure::Unknown,
    }
}

/// The same of a HEAD, whose answers have no body: a key that is not there has no other sign than the status.
pub(super) fn judge_head<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Failure {
    match error {
        SdkError::ServiceError(answer) if answer.raw().status().as_u16() == 404 => Failure::Absent,
        _ => judge(error),
    }
}

fn of_answer(status: u16, code: Option<&str>) -> Failure {
    match (status, code) {
        (_, Some("SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests")) => {
            Failure::Later
        }
        (429 | 503, _) => Failure::Later,
        (412, _) | (200..=299, Some("PreconditionFailed")) => Failure::Exists,
        // An error after the status line of success, or an answer that is none.
        (200..=299, _) => Failure::Unknown,
        // The answer to a HEAD has no body, so no code.
        (409, None | Some("ConditionalRequestConflict" | "OperationAborted")) => Failure::Raced,
        (404, Some("NoSuchKey")) => Failure::Absent,
        // Without a body: anything on the way may have answered that. Only a HEAD has nothing else to say ([`judge_head`]).
        (404, None | Some("NotFound")) => Failure::Unknown,
        (416, _) => Failure::Range,
        (500..=599, _) => Failure::Unknown,
        _ => Failure::Refused,
    }
}

fn lacks_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<CredentialsError>())
}

/// The error of a request on `key`, for people: what was asked, what came of it, what helps.
pub(super) fn told<E>(doing: &str, key: &str, failure: Failure, error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).map(str::to_owned);
    let status = error.raw_response().map(|raw| raw.status().as_u16());
    let what = match (&code, status) {
        (Some(code), Some(status)) => format!("{code} ({status})"),
        (None, Some(status)) => format!("status {status}"),
        _ => DisplayErrorContext(error).to_string(),
    };
    let hint = match code.as_deref() {
        Some("NoSuchBucket") => "; create the bucket first",
        _ if matches!(status, Some(401 | 403)) => "; check the credentials and their policy",
        _ if what.contains("no credentials") => "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
        _ => "",
    };
    let kind = match failure {
        Failure::Absent => ErrorKind::NotFound,
        Failure::Exists => ErrorKind::Conflict,
        Failure::Unknown | Failure::Raced => ErrorKind::Unknown,
        Failure::Later | Failure::Refused | Failure::Range => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{doing} {key}: {what}{hint}"))
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// No byte for this long: the stream is dead.
const STALL_GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_store_itself_says_that_a_key_is_not_there() {
        assert_eq!(of_answer(404, Some("NoSuchKey")), Failure::Absent);
        // A proxy between, for a moment: asked again, never believed.
        assert_eq!((of_answer(404, None), of_answer(404, Some("NotFound"))), (Failure::Unknown, Failure::Unknown));
        assert_eq!(of_answer(404, Some("NoSuchBucket")), Failure::Refused);
    }

    #[test]
    fn what_may_have_happened_is_told_from_what_has_not() {
        assert_eq!(
            (of_answer(412, None), of_answer(200, Some("PreconditionFailed"))),
            (Failure::Exists, Failure::Exists)
        );
        assert_eq!((of_answer(503, None), of_answer(429, None)), (Failure::Later, Failure::Later));
        assert_eq!((of_answer(500, None), of_answer(200, Some("InternalError"))), (Failure::Unknown, Failure::Unknown));
        assert_eq!((of_answer(409, None), of_answer(409, Some("OperationAborted"))), (Failure::Raced, Failure::Raced));
        assert_eq!((of_answer(403, Some("AccessDenied")), of_answer(416, None)), (Failure::Refused, Failure::Range));
    }
}
