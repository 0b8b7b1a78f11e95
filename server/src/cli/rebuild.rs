//! `reprise rebuild`

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::cli::{
    client::Client,
    failure::Failure,
    output::{Output, plain},
};

/// Fold all projections again from the log, beside the live ones
#[derive(Args, Debug)]
#[command(
    after_help = "The new generation takes over only if its digest equals the live one's (or the live one is known
bad); serving goes on meanwhile. With --at nothing takes over: a copy is built and its digest printed.
Exit code 1 when the digests differ."
)]
pub struct Rebuild {
    /// Build a time-travel copy up to this position instead
    #[arg(long, value_name = "POSITION")]
    at: Option<u64>,
}

impl Rebuild {
    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let mut progress = output.progress("rebuilding");
        let mut result = Value::Null;
        let at = self.at.map(|at| format!("?at={at}")).unwrap_or_default();
        client
            .stream(Method::POST, &format!("/projections/rebuild{at}"), &mut |line| {
                match line.get("progress") {
                    Some(at) => progress.at(at["done"].as_u64().unwrap_or(0), at["total"].as_u64().unwrap_or(0)),
                    None => result = line.get("result").cloned().unwrap_or(Value::Null),
                }
                Ok(())
            })
            .await?;
        drop(progress);
        if result.is_null() {
            return Err(Failure::CouldNot("the answer ended without a result".to_owned()));
        }
        output.value(&result, |result| plain(&result["detail"]))?;
        match result["ok"].as_bool() {
            Some(true) => Ok(()),
            _ => Err(Failure::NotWell(plain(&result["detail"]))),
        }
    }
}
