//! `reprise digest`

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::cli::{
    client::Client,
    failure::Failure,
    output::{Output, plain, table},
};

/// Print the fingerprints of the projections
#[derive(Args, Debug)]
#[command(after_help = "Equal digests at equal positions mean equal rows, in any store, live or rebuilt.

With --three-ways every byte of every pack that the log names is read, which takes as long as it takes to read them; serving goes on.
Exit code 1 when they are not equal, or a pack that readers need is damaged; each difference names projection, repository and
pack.")]
pub struct Digest {
    /// Compare the live projections with those of the log, and with those of the packs that the log names
    #[arg(long)]
    three_ways: bool,
}

impl Digest {
    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        if self.three_ways {
            return three_ways(client, output).await;
        }
        let digest = client.call(Method::GET, "/projections/digest", None).await?;
        output.value(&digest, |digest| {
            let row = |(name, one): (&String, &Value)| vec![name.clone(), plain(&one["rows"]), plain(&one["digest"])];
            let rows: Vec<_> = digest["projections"].as_object().into_iter().flatten().map(row).collect();
            let all = format!("at {}: {}", plain(&digest["position"]), plain(&digest["digest"]));
            format!("{all}\n{}", table(&["PROJECTION", "ROWS", "DIGEST"], &rows))
        })
    }
}

async fn three_ways(client: &Client, output: &Output) -> Result<(), Failure> {
    let mut progress = output.progress("comparing");
    let (mut result, mut found) = (Value::Null, Vec::new());
    client
        .stream(Method::POST, "/projections/compare", &mut |line| {
            if let Some(at) = line.get("progress") {
                progress.at(at["done"].as_u64().unwrap_or(0), at["total"].as_u64().unwrap_or(0));
            } else if let Some(done) = line.get("result") {
                result = done.clone();
            } else {
                found.push(line);
            }
            Ok(())
        })
        .await?;
    drop(progress);
    if result.is_null() {
        return Err(Failure::CouldNot("the answer ended without a result".to_owned()));
    }
    result["found"] = Value::Array(found);
    output.value(&result, compared)?;
    match result["ok"].as_bool() {
        Some(true) => Ok(()),
        _ => Err(Failure::NotWell(plain(&result["detail"]))),
    }
}

fn compared(result: &Value) -> String {
    let named = ["projection", "repository", "repo_id", "pack", "kind", "object", "detail"];
    let line = |one: &Value| {
        let (state, what) =
            one.as_object().and_then(|one| one.iter().next()).map_or(("", &Value::Null), |(k, v)| (k, v));
        let cells = named.iter().filter(|name| !what[**name].is_null()).map(|name| plain(&what[*name]));
        format!("{state}: {}", cells.collect::<Vec<_>>().join(" "))
    };
    let mut lines: Vec<String> = result["found"].as_array().into_iter().flatten().map(line).collect();
    let row = |(name, one): (&String, &Value)| {
        let cell = |way: &str| plain(&one[way]);
        vec![name.clone(), cell("rows"), cell("live"), cell("log"), cell("packs")]
    };
    let rows: Vec<_> = result["projections"].as_object().into_iter().flatten().map(row).collect();
    lines.push(table(&["PROJECTION", "ROWS", "LIVE", "FROM THE LOG", "FROM THE PACKS"], &rows));
    lines.push(format!("at {}: {}", plain(&result["position"]), plain(&result["detail"])));
    lines.join("\n")
}
