//! What must be true after a restart: of refs and labels, of every object, of the log.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::{
    client::{Failure, Refs, Repository, commands::post_fetch, pack::apply, release},
    oracle::Kind,
    server_process::DataDir,
    workload::{Field, LISTED, state_of},
};

/// Heads that one fetch asks for, so that its answer stays below what a client takes.
const HEADS_PER_FETCH: usize = 400;

/// Compares refs, releases and tags (the rows of their projection) of all repositories with the oracle, which settles what was unknown.
pub fn judge(field: &Field, repos: &[&str], tags: &[Json]) -> Result<(), String> {
    let mut ids = BTreeMap::new();
    for repo in repos {
        let refs = match Refs::get(&field.url(repo), None) {
            Ok(refs) => Some(refs),
            Err(Failure::Status { code: 404, .. }) => None,
            Err(failure) => return Err(format!("{repo}: {failure}")),
        };
        let heads = refs.as_ref().map(|refs| refs.branch_heads.as_slice());
        if field.oracle().comes_and_goes(repo) {
            let state = state_of(heads).map(|state| ("main".to_owned(), state));
            field.oracle().judge(repo, Kind::Repo, &state.into_iter().collect())?;
            continue;
        }
        if refs.is_none() && field.oracle().registers(repo).is_empty() {
            continue;
        }
        let refs = refs.ok_or_else(|| format!("{repo} is gone"))?;
        ids.insert(refs.repo_id.clone(), *repo);
        for kind in LISTED {
            let seen = match kind {
                Kind::Branch => refs.branch_heads.iter().cloned().collect(),
                _ => releases(field, repo)?,
            };
            field.oracle().judge(repo, kind, &seen)?;
        }
        let races = field.oracle().races(repo);
        for branch in races {
            judge_race(field, repo, &branch, refs.head(&branch))?;
        }
    }
    for (id, repo) in &ids {
        let own = tags.iter().filter(|row| row["repo"] == **id);
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let seen = own.map(|row| (text(&row["tag"]), text(&row["commit"]))).collect();
        field.oracle().judge(repo, Kind::Tag, &seen)?;
    }
    Ok(())
}

fn releases(field: &Field, repo: &str) -> Result<BTreeMap<String, String>, String> {
    let listed = release::list(&field.remote(repo), None, true).map_err(|failure| format!("{repo}: {failure}"))?;
    Ok(listed.iter().map(|one| (one.text("tag").to_owned(), one.text("commit_id").to_owned())).collect())
}

/// The line of a contested branch, as the server gives it.
fn judge_race(field: &Field, repo: &str, branch: &str, head: Option<&str>) -> Result<(), String> {
    let Some(head) = head else { return field.oracle().judge_race(repo, branch, &[]) };
    let given = fetched(field, repo, &[head.to_owned()], &[])?;
    let line = field.archive().compare(&given, head, &BTreeSet::new())?;
    field.oracle().judge_race(repo, branch, &line)
}

/// Fetches every head that `repo` ever acknowledged, from the `from`th on, with all below it, and compares each record and
/// each byte with what was sent; how many heads there are.
pub fn check_served(field: &Field, repo: &str, from: usize) -> Result<usize, String> {
    let heads = field.oracle().heads(repo).to_vec();
    for start in (from..heads.len()).step_by(HEADS_PER_FETCH) {
        let wanted = &heads[start..heads.len().min(start + HEADS_PER_FETCH)];
        let have: BTreeSet<String> = heads[..start].iter().cloned().collect();
        // Also what became certain later than what stands on it.
        let known = field.archive().below(&have);
        let wanted: BTreeSet<String> = wanted.iter().filter(|head| !known.contains(*head)).cloned().collect();
        let wanted: Vec<String> = wanted.into_iter().collect();
        let have: Vec<String> = have.into_iter().collect();
        let given = fetched(field, repo, &wanted, &have)?;
        let has = field.archive().blobs_below(&known);
        for head in &wanted {
            let line = field.archive().compare(&given, head, &known)?;
            field.archive().compare_blobs(&given, &line, &has)?;
        }
    }
    Ok(heads.len())
}

fn fetched(field: &Field, repo: &str, want: &[String], have: &[String]) -> Result<Repository, String> {
    let mut given = Repository::init();
    if !want.is_empty() {
        let answer = post_fetch(&field.url(repo), None, want, have).map_err(|failure| format!("{repo}: {failure}"))?;
        apply(&mut given, &answer).map_err(|failure| format!("{repo}: {failure}"))?;
    }
    Ok(given)
}

/// Every acknowledged push stands in the log once, under its own push id, with its own head.
pub fn check_log(field: &Field, data: &DataDir) -> Result<u64, String> {
    let mut moved: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for event in data.json_lines(&["log"]) {
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        for update in event["updates"].as_array().into_iter().flatten() {
            moved.entry(text(&event["push_id"])).or_default().push((text(&update["name"]), text(&update["new"])));
        }
    }
    let oracle = field.oracle();
    for (push_id, push) in oracle.pushes() {
        let expected = vec![(push.branch.clone(), push.head.clone())];
        match moved.get(push_id) {
            Some(found) if *found == expected => {}
            found => return Err(format!("push {push_id} to {} should be {expected:?} once: {found:?}", push.repo)),
        }
    }
    Ok(oracle.pushes().len() as u64)
}
