//! `reprise verify`

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::cli::{
    client::Client,
    failure::Failure,
    output::{Output, Progress, plain},
};

/// Check the log and every pack that it names
#[derive(Args, Debug)]
#[command(after_help = "Without --deep: every byte of the log; of each pack its presence, size and table.
Exit code 1 when something is damaged; each damage is named, nothing is changed. `reprise scrub` condemns what is damaged and
cannot be made whole; then a push of the same content heals it.")]
pub struct Verify {
    /// Read and check every byte of every pack
    #[arg(long)]
    deep: bool,
}

impl Verify {
    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let result = walk(client, &format!("/verify?deep={}", self.deep), output.progress("verifying")).await?;
        conclude(&result, output)
    }
}

/// Asks for a walk over what is stored; its result, with what was found.
pub(super) async fn walk(client: &Client, path: &str, mut progress: Progress) -> Result<Value, Failure> {
    let mut result = Value::Null;
    let mut found = Vec::new();
    client
        .stream(Method::POST, path, &mut |line| {
            if let Some(at) = line.get("progress") {
                progress.at(at["done"].as_u64().unwrap_or(0), at["total"].as_u64().unwrap_or(0));
            } else if let Some(done) = line.get("result") {
                result = done.clone();
            } else if found.len() < FOUND_LISTED_MAX {
                found.push(line);
            }
            Ok(())
        })
        .await?;
    if result.is_null() {
        return Err(Failure::CouldNot("the answer ended without a result".to_owned()));
    }
    result["found"] = Value::Array(found);
    Ok(result)
}

/// Says the result.
pub(super) fn conclude(result: &Value, output: &Output) -> Result<(), Failure> {
    output.value(result, text)?;
    match result["ok"].as_bool() {
        Some(true) => Ok(()),
        _ => Err(Failure::NotWell(format!("{} damaged", plain(&result["damaged"])))),
    }
}

fn text(result: &Value) -> String {
    let found = result["found"].as_array().into_iter().flatten();
    let line = |one: &Value| {
        let (state, what) =
            one.as_object().and_then(|one| one.iter().next()).map_or(("", &Value::Null), |(k, v)| (k, v));
        let named = ["what", "kind", "object", "pack", "repo", "file", "offset", "detail"];
        let named = named.iter().filter(|name| !what[**name].is_null()).map(|name| plain(&what[*name]));
        format!("{state}: {}", named.collect::<Vec<_>>().join(" "))
    };
    let mut lines: Vec<String> = found.map(line).collect();
    let cell = |name: &str| plain(&result[name]);
    lines.push(format!(
        "{} events, {} packs, {} bytes checked: {} damaged, {} healed",
        cell("events"),
        cell("packs"),
        cell("bytes"),
        cell("damaged"),
        cell("healed"),
    ));
    if !result["repaired"].is_null() {
        lines.push(format!(
            "{} segments in the bucket and {} local copies read; {} repaired, {} objects condemned",
            cell("segments"),
            cell("copies"),
            cell("repaired"),
            cell("condemned"),
        ));
    }
    lines.join("\n")
}

/// Findings that one result lists; all are counted.
const FOUND_LISTED_MAX: usize = 10_000;
