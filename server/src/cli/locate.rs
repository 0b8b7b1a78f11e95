//! `reprise locate`

use clap::Args;
use hyper::Method;
use reprise_engine::id::ObjectId;
use serde_json::Value;

use crate::{
    cli::{
        client::Client,
        failure::Failure,
        output::{Output, fields},
        repo,
    },
    config::{self, RepoName},
};

/// Which event proves an object, in which pack it is, at which bytes
#[derive(Args, Debug)]
#[command(after_help = "Exit code 1 when the repository does not have the object.")]
pub struct Locate {
    /// The repository
    #[arg(value_name = "OWNER/SLUG")]
    name: RepoName,
    /// The object's id (64 hex digits)
    #[arg(value_parser = config::object)]
    object: ObjectId,
}

impl Locate {
    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let path = format!("{}/locate/{}", repo::path(&self.name), self.object);
        let found = client.call(Method::GET, &path, None).await?;
        output.value(&found, |found| {
            let each = |one: &Value| fields(one, &FIELDS);
            found["found"].as_array().into_iter().flatten().map(each).collect::<Vec<_>>().join("\n\n")
        })
    }
}

const FIELDS: [&str; 9] =
    ["object", "kind", "position", "pack", "uri", "offset", "stored_bytes", "real_bytes", "codec"];
