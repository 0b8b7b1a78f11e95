//! `muse release push`, `list --remote`, `delete --remote`: JSON on the way up, msgpack on the way down.
//!
//! Invariants: the record has the keys of MWP §4.5; a tag in a path is percent-encoded with nothing left safe.

use serde_json::json;

use super::{
    http::{Failure, Request},
    ids::sha256_hex,
    repository::{Remote, Repository},
    value::Value,
};

/// What `muse release add` would store for `tag` at the head of `branch`.
pub fn record(repository: &Repository, tag: &str, branch: &str, channel: &str, is_draft: bool) -> serde_json::Value {
    let head = repository.head(branch);
    let commit = &repository.commits[head];
    let digits = tag.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
    let mut numbers = digits.split('.').map(|number| number.parse::<u64>().expect("semver"));
    let mut number = || numbers.next().expect("semver");
    let hash = sha256_hex(tag.as_bytes());
    json!({
        "release_id": format!("{}-{}-4{}-8{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32]),
        "repo_id": repository.repo_id,
        "tag": tag,
        "semver": {
            "major": number(), "minor": number(), "patch": number(),
            "pre": tag.split_once('-').map_or("", |(_, pre)| pre.split('+').next().unwrap_or_default()),
            "build": tag.split_once('+').map_or("", |(_, build)| build),
        },
        "channel": channel,
        "commit_id": head,
        "snapshot_id": commit.text("snapshot_id"),
        "title": format!("Release {tag}"),
        "body": "notes ✓",
        "changelog": [{
            "commit_id": head,
            "message": commit.text("message"),
            "sem_ver_bump": "minor",
            "breaking_changes": ["one"],
            "author": "Alice",
            "committed_at": commit.text("committed_at"),
            "agent_id": "agent",
            "model_id": "",
        }],
        "agent_id": "",
        "model_id": "",
        "is_draft": is_draft,
        "gpg_signature": "",
        "created_at": "2026-03-20T10:00:00.000001+00:00",
    })
}

/// `muse release push`; the server's release id.
pub fn push(remote: &Remote, record: &serde_json::Value) -> Result<String, Failure> {
    let body = record.to_string().into_bytes();
    let answer = Request::post_json(format!("{}/releases", remote.url), remote.token.as_deref(), &body).value()?;
    Ok(answer.text("release_id").to_owned())
}

/// `muse release list --remote R [--channel C] [--include-drafts]`.
pub fn list(remote: &Remote, channel: Option<&str>, include_drafts: bool) -> Result<Vec<Value>, Failure> {
    let mut parts = Vec::new();
    parts.extend(channel.map(|channel| format!("channel={channel}")));
    parts.extend(include_drafts.then(|| "include_drafts=1".to_owned()));
    let query = if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) };
    let answer = Request::get(format!("{}/releases{query}", remote.url), remote.token.as_deref()).value()?;
    Ok(answer.items("releases").to_vec())
}

/// `muse release delete TAG --remote R --yes`.
pub fn delete(remote: &Remote, tag: &str) -> Result<(), Failure> {
    let url = format!("{}/releases/{}", remote.url, percent_encode(tag));
    Request::delete(url, remote.token.as_deref()).value().map(|_| ())
}

/// Python's `quote(text, safe="")`.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
