//! `reprise log`

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::cli::{
    client::Client,
    failure::Failure,
    output::{Output, plain},
};

/// Print the events of the log
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  reprise log --from 100
  reprise log --follow --json | jq 'select(.kind == \"refs_updated\")'")]
pub struct Log {
    /// The first position to print
    #[arg(long, default_value_t = 1, value_name = "POSITION")]
    from: u64,
    /// Go on when the end is reached (with a running server)
    #[arg(long)]
    follow: bool,
}

impl Log {
    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        if self.follow && client.is_local() {
            return Err(Failure::CouldNot(
                "no server is running on this directory, so nothing can come: start `reprise serve`, then follow"
                    .to_owned(),
            ));
        }
        let path = format!("/log?from={}&follow={}", self.from, self.follow);
        client.stream(Method::GET, &path, &mut |event| output.item(&event, line)).await
    }
}

fn line(event: &Value) -> String {
    let known = ["position", "time", "kind", "actor", "push_id"];
    let more = event.as_object().into_iter().flatten().filter(|(name, _)| !known.contains(&name.as_str()));
    let more: Vec<String> = more.map(|(name, value)| format!("{name}={}", plain(value))).collect();
    let cell = |name: &str| plain(&event[name]);
    format!("{:>8}  {}  {:17}  {}  {}", cell("position"), cell("time"), cell("kind"), cell("actor"), more.join(" "))
}
