//! `reprise repo …`

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    cli::{
        client::{Client, encoded},
        failure::Failure,
        output::{Output, fields, plain, table},
    },
    config::RepoName,
};

/// Create, list, show, change and delete repositories
#[derive(Subcommand, Debug)]
pub enum Repo {
    /// Create an empty repository
    #[command(
        after_help = "Examples:\n  reprise repo create alice/etude\n  reprise repo create alice/etude --private --default-branch main"
    )]
    Create {
        /// Its name
        #[arg(value_name = "OWNER/SLUG")]
        name: RepoName,
        /// Only its owner's tokens may read it
        #[arg(long)]
        private: bool,
        /// Its settings
        #[command(flatten)]
        settings: Settings,
    },
    /// List all repositories
    List,
    /// Show one repository and its branches
    Show {
        /// Its name
        #[arg(value_name = "OWNER/SLUG")]
        name: RepoName,
    },
    /// Change a repository's name or settings; what is not named stays
    #[command(
        after_help = "A new name frees the old one: remotes of clones must be told. A new owner's tokens are good for it at once.\n\nExamples:\n  reprise repo update alice/etude --private\n  reprise repo update quarantine/0197c5a2b6de --rename alice/etude --public"
    )]
    Update {
        /// Its name
        #[arg(value_name = "OWNER/SLUG")]
        name: RepoName,
        /// Its new name
        #[arg(long, value_name = "OWNER/SLUG")]
        rename: Option<RepoName>,
        /// Everyone may read it
        #[arg(long, conflicts_with = "private")]
        public: bool,
        /// Only its owner's tokens may read it
        #[arg(long)]
        private: bool,
        /// Its settings
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a repository and all that belongs to it
    Delete {
        /// Its name
        #[arg(value_name = "OWNER/SLUG")]
        name: RepoName,
    },
}

/// What a repository may be told when it is made and later.
#[derive(Args, Debug)]
pub struct Settings {
    /// The branch a clone checks out; where none is named, the first push decides
    #[arg(long, value_name = "BRANCH")]
    default_branch: Option<String>,
    /// The client's domain
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
}

impl Repo {
    /// Whether it makes sense without a data directory.
    pub fn creates(&self) -> bool {
        matches!(self, Repo::Create { .. })
    }

    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Repo::Create { name, private, settings: Settings { default_branch, domain } } => {
                let visibility = if private { "private" } else { "public" };
                let body = json!({
                    "owner": name.owner, "slug": name.slug, "visibility": visibility,
                    "default_branch": default_branch, "domain": domain,
                });
                let made = client.call(Method::POST, "/repos", Some(&body)).await?;
                output.value(&made, |made| format!("created {} ({})", title(made), plain(&made["visibility"])))
            }
            Repo::List => list(client, output).await,
            Repo::Show { name } => {
                let shown = client.call(Method::GET, &path(&name), None).await?;
                output.value(&shown, show)
            }
            Repo::Update { name, rename, public, private, settings: Settings { default_branch, domain } } => {
                let visibility = public.then_some("public").or(private.then_some("private"));
                let (owner, slug) = rename.map(|new| (new.owner, new.slug)).unzip();
                let body = json!({
                    "owner": owner, "slug": slug, "visibility": visibility,
                    "default_branch": default_branch, "domain": domain,
                });
                let made = client.call(Method::PATCH, &path(&name), Some(&body)).await?;
                output.value(&made, |made| format!("{} ({})", title(made), plain(&made["visibility"])))
            }
            Repo::Delete { name } => {
                let gone = client.call(Method::DELETE, &path(&name), None).await?;
                output.value(&gone, |gone| format!("deleted {}", title(gone)))
            }
        }
    }
}

async fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let mut repos = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.call(Method::GET, &format!("/repos{after}"), None).await?;
        repos.extend(page["repos"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = format!("?after={}", encoded(next)),
            None => break,
        }
    }
    output.value(&json!({"repos": repos}), |value| {
        let row = |repo: &Value| {
            let cell = |name: &str| plain(&repo[name]);
            vec![title(repo), cell("visibility"), cell("domain"), cell("default_branch"), cell("created_at")]
        };
        let rows: Vec<_> = value["repos"].as_array().into_iter().flatten().map(row).collect();
        if rows.is_empty() { "no repositories".to_owned() } else { table(&HEADING, &rows) }
    })
}

fn show(repo: &Value) -> String {
    let names = ["repo_id", "visibility", "domain", "default_branch", "created_at"];
    let branches = repo["branches"].as_object().into_iter().flatten();
    let rows: Vec<_> = branches.map(|(name, head)| vec![name.clone(), plain(head)]).collect();
    let branches = if rows.is_empty() { "no branches".to_owned() } else { table(&["BRANCH", "HEAD"], &rows) };
    format!("{}\n{}\n\n{branches}", title(repo), fields(repo, &names))
}

fn title(repo: &Value) -> String {
    format!("{}/{}", plain(&repo["owner"]), plain(&repo["slug"]))
}

/// The repository in the admin API.
pub fn path(name: &RepoName) -> String {
    format!("/repos/{}/{}", encoded(&name.owner), encoded(&name.slug))
}

const HEADING: [&str; 5] = ["REPOSITORY", "VISIBILITY", "DOMAIN", "DEFAULT BRANCH", "CREATED"];
