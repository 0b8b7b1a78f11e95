//! `reprise status`

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::cli::{
    client::Client,
    failure::Failure,
    output::{Output, plain},
};

/// How the log and its projections are
#[derive(Args, Debug)]
#[command(after_help = "Exit code 1 when something is not well.")]
pub struct Status {}

impl Status {
    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let status = client.call(Method::GET, "/status", None).await?;
        output.value(&status, text)?;
        match status["ok"].as_bool() {
            Some(true) => Ok(()),
            _ => Err(Failure::NotWell(plain(&status["detail"]))),
        }
    }
}

fn text(status: &Value) -> String {
    let projections = &status["projections"];
    let lag = format!("{} events, {} s", plain(&status["lag_events"]), plain(&status["lag_seconds"]));
    let behind = &status["unarchived"];
    let unarchived = match behind.is_null() {
        true => plain(behind),
        false => format!("{} events, {} bytes, for {} s", behind["events"], behind["bytes"], behind["seconds"]),
    };
    let lines = [
        ("state", plain(&status["detail"])),
        ("log ends at", plain(&status["durable"])),
        ("in the bucket", plain(&status["archived"])),
        ("not there", unarchived),
        ("log tail", plain(&status["opened"]["tail"])),
        ("projections", plain(&projections["state"])),
        ("generation", plain(&projections["generation"])),
        ("folded to", plain(&projections["position"])),
        ("lag", lag),
        ("parked", plain(&projections["parked"])),
        ("note", plain(&projections["reason"])),
    ];
    lines.iter().map(|(name, value)| format!("{name:12} {value}")).collect::<Vec<_>>().join("\n")
}
