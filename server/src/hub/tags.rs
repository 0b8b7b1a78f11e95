//! Tags: labels on commits (no client command sends any; MWP §5.10).
//!
//! Invariants: a label is unique within its repository and may be moved; of two with one label in a request the last counts.

use std::collections::BTreeMap;

use reprise_engine::{
    engine::Condition,
    event::{EventBody, TagRecord, TagsSet},
};
use serde_json::{Map, Value};

use crate::hub::{
    Caller, Hub, HubError,
    body::Body,
    releases::{check_tag, optional, record_of, text},
    repos::RepoName,
};

impl Hub {
    /// Sets the tags of a body; returns how many.
    pub async fn set_tags(&self, caller: &Caller, name: &RepoName, body: &Body) -> Result<u64, HubError> {
        let (repo, _) = self.writable(caller, &name.owner, &name.slug, false).await?;
        let record = record_of(body)?;
        let Some(Value::Array(entries)) = record.get("tags") else {
            return Err(HubError::Invalid("tags: an array is expected".to_owned()));
        };
        let max = self.limits.tags_per_request_max;
        if entries.len() > max {
            return Err(HubError::TooLarge(format!("tags: {} in one request; the limit is {max}", entries.len())));
        }
        let mut tags = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            let tag =
                entry.as_object().ok_or_else(|| HubError::Invalid(format!("tags[{index}]: a map is expected")))?;
            let tag = tag_of(tag).map_err(|error| HubError::Invalid(format!("tags[{index}].{error}")))?;
            tags.insert(tag.tag.clone(), tag);
        }
        let id = repo.row.record.repo;
        if !tags.is_empty() {
            let event = EventBody::TagsSet(TagsSet { repo: id, tags: tags.into_values().collect() });
            self.append_as(caller, vec![Condition::RepoLive(id)], event).await?;
        }
        Ok(entries.len() as u64)
    }
}

fn tag_of(entry: &Map<String, Value>) -> Result<TagRecord, HubError> {
    let tag = text(entry, "tag")?;
    check_tag(tag)?;
    let optional =
        |name| Ok::<_, HubError>(optional(entry, name, Value::as_str, "a text")?.unwrap_or_default().to_owned());
    Ok(TagRecord {
        tag_id: optional("tag_id")?,
        tag: tag.to_owned(),
        commit: text(entry, "commit_id")?.parse().map_err(|error| HubError::Invalid(format!("commit_id: {error}")))?,
        created_at: optional("created_at")?,
    })
}
