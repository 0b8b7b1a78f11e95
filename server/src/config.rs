//! Raw arguments into validated ones, once.

use std::{str::FromStr, time::Duration};

use reprise_engine::{event::Visibility, id::ObjectId, object::names};

use crate::hub::Limits;
pub use crate::hub::repos::RepoName;

impl FromStr for RepoName {
    type Err = String;

    fn from_str(text: &str) -> Result<RepoName, String> {
        let (owner, slug) = text.split_once('/').ok_or("a repository is written OWNER/SLUG")?;
        names::check_owner(owner).map_err(|error| error.to_string())?;
        names::check_slug(slug).map_err(|error| error.to_string())?;
        Ok(RepoName { owner: owner.to_owned(), slug: slug.to_owned() })
    }
}

/// A visibility, from `public` or `private`.
pub fn visibility(text: &str) -> Result<Visibility, String> {
    match text {
        "public" => Ok(Visibility::Public),
        "private" => Ok(Visibility::Private),
        _ => Err("one of: public, private".to_owned()),
    }
}

/// A span of time with a unit (`30d`, `12h`, `90s`).
pub fn span(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(span) if span.is_zero() => Err("longer than nothing".to_owned()),
        Ok(span) => Ok(span),
        Err(error) => Err(format!("{error} (for example 30d, 12h or 90s)")),
    }
}

/// An address that a server is reached at: `http://` or `https://`, a host, perhaps a port.
pub fn server_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.map(|rest| rest.trim_end_matches('/')).unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    match !host.is_empty() && host.bytes().all(plain) {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err("an address like https://hub.example or http://127.0.0.1:10003 is expected".to_owned()),
    }
}

/// How clients reach the bucket: where this server does, elsewhere, or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum BucketForClients {
    /// At the endpoint that this server uses.
    #[default]
    Same,
    /// At this one.
    At(String),
    /// They do not.
    No,
}

/// `no`, or where clients reach the bucket.
pub fn bucket_for_clients(text: &str) -> Result<BucketForClients, String> {
    match text {
        "no" => Ok(BucketForClients::No),
        text => server_url(text).map(BucketForClients::At),
    }
}

/// An object id.
pub fn object(text: &str) -> Result<ObjectId, String> {
    text.parse().map_err(|error: reprise_engine::Error| error.to_string())
}

/// One `NAME=VALUE` that changes a limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitChange {
    name: String,
    value: u64,
}

impl FromStr for LimitChange {
    type Err = String;

    fn from_str(text: &str) -> Result<LimitChange, String> {
        let (name, value) = text.split_once('=').ok_or("a limit is written NAME=VALUE")?;
        let value = value.parse().map_err(|_| format!("'{value}' is not a whole number"))?;
        let change = LimitChange { name: name.to_owned(), value };
        // Unknown names and values out of range are usage errors, said at once.
        change.apply(&mut Limits::default())?;
        Ok(change)
    }
}

macro_rules! limit_table {
    ($self:ident, $limits:ident; $($field:ident: $kind:ident),* $(,)?) => {
        match $self.name.as_str() {
            $(stringify!($field) => $limits.$field = $kind($self.value)?,)*
            other => {
                let names = [$(stringify!($field)),*].join(", ");
                return Err(format!("there is no limit '{other}'; there are: {names}"));
            }
        }
    };
}

impl LimitChange {
    /// Changes `limits`.
    pub fn apply(&self, limits: &mut Limits) -> Result<(), String> {
        limit_table! { self, limits;
            response_bytes_max: bytes,
            objects_body_bytes_max: bytes,
            push_body_bytes_max: bytes,
            ids_body_bytes_max: bytes,
            negotiate_body_bytes_max: bytes,
            json_body_bytes_max: bytes,
            admin_body_bytes_max: bytes,
            spool_threshold_bytes: bytes,
            objects_per_request_max: count,
            blob_bytes_max: bytes,
            commits_per_push_max: count,
            snapshots_per_push_max: count,
            snapshot_entries_max: count,
            record_bytes_max: bytes,
            filter_ids_max: count,
            presign_ids_max: count,
            listed_ids_max: count,
            fetch_want_max: count,
            fetch_have_max: count,
            negotiate_ids_max: count,
            walk_commits_max: count,
            plan_objects_max: count,
            upload_bytes_max: bytes,
            uploads_bytes_max: bytes,
            uploads_max: count,
            uploads_per_repo_max: count,
            unpack_rows_max: count,
            unpack_bytes_max: bytes,
            upload_time_max: seconds,
            download_time_max: seconds,
            missing_listed_max: count,
            refs_per_repo_max: count,
            repos_per_owner_max: count,
            tokens_per_owner_max: count,
            tags_per_request_max: count,
            changelog_entries_max: count,
            release_bytes_max: bytes,
            releases_listed_max: count,
            header_bytes_max: count,
            blocking_jobs_max: count,
            fetches_max: count,
            pushes_max: count,
            object_uploads_max: count,
            small_uploads_per_place: count,
            questions_max: count,
            object_reads_max: count,
            arrivals_max: count,
            arrivals_per_repo_max: count,
            waiting_max: count,
            waiting_time_max: seconds,
            connections_max: count,
            requests_per_second: rate,
            requests_burst: rate,
            rate_limit_loopback: switch,
            header_time_max: seconds,
            body_idle_max: seconds,
            transfer_rate_min: bytes,
            unarchived_bytes_max: bytes,
            shutdown_time_max: seconds,
        }
        Ok(())
    }
}

fn bytes(value: u64) -> Result<u64, String> {
    if value == 0 { Err("at least 1".to_owned()) } else { Ok(value) }
}

fn count(value: u64) -> Result<usize, String> {
    // Semaphores hold no more than usize::MAX >> 3 permits.
    usize::try_from(bytes(value)?).ok().filter(|count| *count < usize::MAX >> 4).ok_or("too large".to_owned())
}

fn rate(value: u64) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| "too large".to_owned())
}

fn switch(value: u64) -> Result<bool, String> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err("0 or 1".to_owned()),
    }
}

fn seconds(value: u64) -> Result<Duration, String> {
    if value > 86_400 { Err("at most 86400 seconds".to_owned()) } else { Ok(Duration::from_secs(bytes(value)?)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_limit_is_changed_by_name_and_a_wrong_name_lists_the_right_ones() {
        let mut limits = Limits::default();
        "fetches_max=3".parse::<LimitChange>().unwrap().apply(&mut limits).unwrap();
        assert_eq!(limits.fetches_max, 3);
        assert!("fetch_max=3".parse::<LimitChange>().unwrap_err().contains("fetches_max"));
        for text in ["fetches_max", "fetches_max=", "fetches_max=0", "fetches_max=-1", "rate_limit_loopback=2"] {
            assert!(text.parse::<LimitChange>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_has_a_scheme_and_a_host_and_nothing_behind_it() {
        assert_eq!(server_url("https://hub.example/").unwrap(), "https://hub.example");
        assert_eq!(server_url("http://[::1]:10003").unwrap(), "http://[::1]:10003");
        for text in ["", "hub.example", "ftp://hub.example", "https://", "https://hub/path", "http://h?x", "http://a b"]
        {
            assert!(server_url(text).is_err(), "{text}");
            assert!(bucket_for_clients(text).is_err(), "{text}");
        }
        assert_eq!(bucket_for_clients("no").unwrap(), BucketForClients::No);
        assert_eq!(
            bucket_for_clients("https://s3.example/").unwrap(),
            BucketForClients::At("https://s3.example".into())
        );
    }

    #[test]
    fn a_span_needs_a_unit_and_a_length() {
        assert_eq!(span("30d").unwrap(), Duration::from_secs(30 * 86_400));
        assert!(span("0s").is_err());
        assert!(span("30").is_err());
    }
}
