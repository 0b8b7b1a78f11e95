//! `reprise scrub`

use clap::Args;

use crate::cli::{client::Client, failure::Failure, output::Output, verify};

/// Read all that rests in the log, the store and the bucket, at a pace; heal what can be
#[derive(Args, Debug)]
#[command(
    after_help = "Reads every byte: the log, the bucket's segments, each pack where the store keeps it, local copies. A key that is gone
from the bucket is put there again, from what lies here and proves itself; a damaged local copy goes. What is damaged and cannot be
made whole is condemned: the next push of the same content heals it. Stopped (Ctrl-C, a restart), the next scrub goes on where
this one was. Exit code 1 when something stays damaged.

Examples:
  reprise scrub --rate 20        at most 20 MB/s on average
  reprise scrub --repair         replace damaged keys of the bucket too, by delete and create; what stood there is kept in
                                 DIR/damaged/. Not in a bucket whose log servers share: while a key is replaced, the others would
                                 take it for lost; the report says what to do"
)]
pub struct ScrubCommand {
    /// Megabytes per second, on average; absent: as fast as it goes
    #[arg(long, value_name = "MB/S", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// Replace damaged keys of the bucket by sound bytes that lie here
    #[arg(long)]
    repair: bool,
    /// Begin anew, not where the last one was stopped
    #[arg(long)]
    restart: bool,
}

impl ScrubCommand {
    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let ScrubCommand { rate, repair, restart } = self;
        let rate = rate.map(|rate| format!("&rate={}", rate * 1_000_000)).unwrap_or_default();
        let path = format!("/scrub?repair={repair}&restart={restart}{rate}");
        verify::conclude(&verify::walk(client, &path, output.progress("scrubbing")).await?, output)
    }
}
