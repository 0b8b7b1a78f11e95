//! `reprise adopt`

use clap::Args;
use hyper::Method;
use reprise_engine::id::ObjectId;
use serde_json::{Value, json};

use crate::{
    cli::{
        client::Client,
        failure::Failure,
        output::{Output, plain, table},
        repo,
    },
    config::{self, RepoName},
};

/// Make a commit that a repository has into a branch: how branches come back after `restore --from-packs`
#[derive(Args, Debug)]
#[command(
    after_help = "Without COMMIT and BRANCH, or with --list: the candidates, newest first. These are commits that no other recovered
commit of the same recorded branch stands on. A branch's head is among them unless commits of a refused push stand on it;
any other commit can be adopted, too.

Every commit, snapshot and blob of the history must be there; those that are not are named.

Examples:
  reprise adopt --list quarantine/0197c5a2b6de
  reprise adopt quarantine/0197c5a2b6de 8dba2cf060ab9a4b5203055938cd5a6d3a4c1815fc17ac899833c520f90f5a5b main
  reprise repo update quarantine/0197c5a2b6de --rename alice/etude --public"
)]
pub struct Adopt {
    /// The repository
    #[arg(value_name = "OWNER/SLUG")]
    name: RepoName,
    /// The commit's id (64 hex digits)
    #[arg(value_parser = config::object, requires = "branch", conflicts_with = "list")]
    commit: Option<ObjectId>,
    /// The branch that it becomes the head of
    branch: Option<String>,
    /// List the candidates
    #[arg(long)]
    list: bool,
    /// Adopt it though something of its history is missing; who clones it is told what
    #[arg(long)]
    incomplete: bool,
    /// Move a branch that is somewhere else, which the commit does not continue
    #[arg(long)]
    force: bool,
}

impl Adopt {
    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let path = repo::path(&self.name);
        let Some((commit, branch)) = self.commit.zip(self.branch) else {
            let found = client.call(Method::GET, &format!("{path}/heads"), None).await?;
            return output.value(&found, candidates);
        };
        let body = json!({
            "commit": commit.to_string(), "branch": branch, "incomplete": self.incomplete, "force": self.force,
        });
        let adopted = client.call(Method::POST, &format!("{path}/adopt"), Some(&body)).await?;
        output.value(&adopted, |adopted| {
            let cell = |name: &str| plain(&adopted[name]);
            let mut text = format!("branch {} is at {}, {} commits", cell("branch"), cell("commit"), cell("commits"));
            for missing in adopted["missing_listed"].as_array().into_iter().flatten() {
                text.push_str(&format!("\nmissing: {}", plain(missing)));
            }
            text
        })
    }
}

/// Candidate heads as a table.
pub fn candidates(found: &Value) -> String {
    let row = |head: &Value| {
        let names = head["head_of"].as_array().into_iter().flatten().map(plain).collect::<Vec<_>>().join(" ");
        let state = match (names.as_str(), head["has_children"].as_bool()) {
            ("", Some(true)) => "goes on elsewhere".to_owned(),
            ("", _) => "-".to_owned(),
            _ => format!("head of {names}"),
        };
        let cell = |name: &str| plain(&head[name]);
        vec![cell("commit"), cell("committed_at"), cell("branch"), state, cell("author"), cell("subject")]
    };
    let rows: Vec<_> = found["heads"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return "no commits".to_owned();
    }
    let more = found["more"].as_u64().or(found["heads_more"].as_u64()).unwrap_or(0);
    let more = if more > 0 { format!("\n{more} older ones are not listed") } else { String::new() };
    format!("{}{more}", table(&HEADING, &rows))
}

const HEADING: [&str; 6] = ["COMMIT", "TIME", "RECORDED BRANCH", "NOW", "AUTHOR", "MESSAGE"];
