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
#[command(after_help = "Equal digests at equal positions mean equal rows, in any store, live or rebuilt.")]
pub struct Digest {}

impl Digest {
    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let digest = client.call(Method::GET, "/projections/digest", None).await?;
        output.value(&digest, |digest| {
            let row = |(name, one): (&String, &Value)| vec![name.clone(), plain(&one["rows"]), plain(&one["digest"])];
            let rows: Vec<_> = digest["projections"].as_object().into_iter().flatten().map(row).collect();
            let all = format!("at {}: {}", plain(&digest["position"]), plain(&digest["digest"]));
            format!("{all}\n{}", table(&["PROJECTION", "ROWS", "DIGEST"], &rows))
        })
    }
}
