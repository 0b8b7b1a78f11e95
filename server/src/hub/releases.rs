//! Releases: publish, list, retract.
//!
//! Invariants: a tag names one release of a repository, decided by the log's condition; drafts are shown to those who may
//! write and asked for them; a text field is never null on the way down (the client would print `None`).

use reprise_engine::{
    clock::random16,
    engine::Condition,
    event::{EventBody, ReleasePublished, ReleaseRetracted, Scope},
    id::PushId,
    object::json,
};
use reprise_projections::{View, view::ReleaseRow};
use serde_json::{Map, Value};

use crate::{
    hub::{Caller, Hub, HubError, Repo, body::Body, repos::RepoName},
    wire::Decoder,
    wire::{Field, value::value},
};

/// Which releases are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReleaseQuery {
    /// Only this channel; an unknown one filters nothing.
    pub channel: Option<String>,
    /// Drafts too, if the caller may see them.
    pub drafts: bool,
}

impl Hub {
    /// Publishes the release of a body; returns its id.
    ///
    /// Errors: `Conflict` (409) when the tag has a release.
    pub async fn publish_release(&self, caller: &Caller, name: &RepoName, body: &Body) -> Result<String, HubError> {
        let (repo, _) = self.writable(caller, &name.owner, &name.slug, false).await?;
        let mut record = record_of(body)?;
        without_nulls(&mut record);
        let tag = text(&record, "tag")?.to_owned();
        check_tag(&tag)?;
        self.check_changelog(&record)?;
        let id = match optional(&record, "release_id", Value::as_str, "a text")? {
            Some(id) if !id.is_empty() => id.to_owned(),
            _ => PushId::from_random(random16(self.engine.random().as_ref())?).to_string(),
        };
        record.insert("release_id".to_owned(), Value::String(id.clone()));
        // The client's own local id of the repository means nothing to others.
        record.insert("repo_id".to_owned(), Value::String(repo.row.record.repo.to_string()));
        let channel = optional(&record, "channel", Value::as_str, "a text")?.unwrap_or("stable").to_owned();
        // Anything but a boolean is refused: what was meant as a draft is never published.
        let is_draft = optional(&record, "is_draft", Value::as_bool, "a boolean")?.unwrap_or(false);
        let record = json::to_canonical(&Value::Object(record))?;
        let max = self.limits.release_bytes_max;
        if record.len() as u64 > max {
            return Err(HubError::TooLarge(format!("the release takes {} bytes; the limit is {max}", record.len())));
        }
        let event = EventBody::ReleasePublished(ReleasePublished {
            repo: repo.row.record.repo,
            tag: tag.clone(),
            channel,
            is_draft,
            record,
        });
        self.append_as(caller, conditions(&repo, tag, false), event).await?;
        Ok(id)
    }

    /// Withdraws a release. Errors: `NotFound` without one.
    pub async fn retract_release(&self, caller: &Caller, repo: &Repo, tag: &str) -> Result<(), HubError> {
        let event = ReleaseRetracted { repo: repo.row.record.repo, tag: tag.to_owned() };
        self.append_as(caller, conditions(repo, tag.to_owned(), true), EventBody::ReleaseRetracted(event)).await?;
        Ok(())
    }

    /// Releases that the caller may see, newest first.
    pub fn list_releases(
        &self,
        caller: &Caller,
        repo: &Repo,
        view: &View,
        query: &ReleaseQuery,
    ) -> Result<Vec<ReleaseRow>, HubError> {
        let record = &repo.row.record;
        let drafts = query.drafts && caller.allows(&record.owner, &record.slug, Scope::Write);
        let channel = query.channel.as_deref().filter(|channel| CHANNELS.contains(channel));
        let mut heads = view.releases(repo.scope)?;
        heads.retain(|head| (drafts || !head.is_draft) && channel.is_none_or(|channel| head.channel == channel));
        heads.truncate(self.limits.releases_listed_max);
        let (bytes, max) = (heads.iter().map(|head| head.record_bytes).sum::<u64>(), self.limits.response_bytes_max);
        if bytes > max {
            return Err(HubError::TooLarge(format!(
                "{} releases take {bytes} bytes, more than the limit of {max}: ask for one channel, or retract old ones",
                heads.len()
            )));
        }
        let rows = heads.into_iter().filter_map(|head| view.release(repo.scope, &head.tag).transpose());
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn check_changelog(&self, record: &Map<String, Value>) -> Result<(), HubError> {
        let max = self.limits.changelog_entries_max;
        match record.get("changelog") {
            None => Ok(()),
            Some(Value::Array(entries)) if entries.len() <= max => Ok(()),
            Some(Value::Array(entries)) => {
                Err(HubError::TooLarge(format!("changelog: {} entries; the limit is {max}", entries.len())))
            }
            Some(_) => Err(HubError::Invalid("changelog: an array is expected".to_owned())),
        }
    }
}

/// The one map of a body.
pub(crate) fn record_of(body: &Body) -> Result<Map<String, Value>, HubError> {
    let mut decoder = Decoder::new(body.source());
    let record = value(&mut decoder, &Field::root("body"))?;
    decoder.finish()?;
    match record {
        Value::Object(record) => Ok(record),
        _ => Err(HubError::Invalid("the body must be a map".to_owned())),
    }
}

/// A text field that must be there.
pub(crate) fn text<'a>(record: &'a Map<String, Value>, name: &str) -> Result<&'a str, HubError> {
    record.get(name).and_then(Value::as_str).ok_or_else(|| HubError::Invalid(format!("{name}: a text is expected")))
}

/// A field that may be absent or null; one of another type is refused by name.
pub(crate) fn optional<'a, T>(
    record: &'a Map<String, Value>,
    name: &str,
    read: impl FnOnce(&'a Value) -> Option<T>,
    wanted: &str,
) -> Result<Option<T>, HubError> {
    match record.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match read(value) {
            None => Err(HubError::Invalid(format!("{name}: {wanted} is expected"))),
            read => Ok(read),
        },
    }
}

/// A label: 1 to 255 bytes, no control characters.
pub(crate) fn check_tag(tag: &str) -> Result<(), HubError> {
    if tag.is_empty() || tag.len() > TAG_BYTES_MAX || tag.chars().any(char::is_control) {
        return Err(HubError::Invalid(format!(
            "tag: 1 to {TAG_BYTES_MAX} bytes without control characters are expected"
        )));
    }
    Ok(())
}

fn conditions(repo: &Repo, tag: String, exists: bool) -> Vec<Condition> {
    let id = repo.row.record.repo;
    vec![Condition::RepoLive(id), Condition::ReleaseExists { repo: id, tag, exists }]
}

fn without_nulls(record: &mut Map<String, Value>) {
    record.retain(|_, value| !value.is_null());
    for value in record.values_mut() {
        match value {
            Value::Object(fields) => fields.retain(|_, value| !value.is_null()),
            Value::Array(entries) => entries.iter_mut().filter_map(Value::as_object_mut).for_each(|entry| {
                entry.retain(|_, value| !value.is_null());
            }),
            _ => {}
        }
    }
}

const CHANNELS: [&str; 4] = ["stable", "beta", "alpha", "nightly"];
const TAG_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_null_never_reaches_the_client() {
        let mut record =
            json!({"title": null, "changelog": [{"author": null, "message": "m"}], "semver": {"pre": null}});
        let fields = record.as_object_mut().unwrap();
        without_nulls(fields);
        assert_eq!(record, json!({"changelog": [{"message": "m"}], "semver": {}}));
    }

    #[test]
    fn labels_have_a_grammar() {
        assert!(check_tag("v1.0.0-rc.1+build").is_ok());
        for tag in ["", "a\nb", &"x".repeat(256)] {
            assert!(check_tag(tag).is_err(), "{tag}");
        }
    }
}
