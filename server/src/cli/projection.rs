//! `reprise projection …`

use clap::{Subcommand, builder::PossibleValuesParser};
use hyper::Method;
use reprise_projections::Model;

use crate::cli::{
    client::{Client, encoded},
    failure::Failure,
    output::Output,
};

/// Look into projections
#[derive(Subcommand, Debug)]
pub enum Projection {
    /// Print all rows of one projection, one JSON value per line, in key order
    #[command(after_help = "Examples:\n  reprise projection dump refs\n  reprise projection dump object_refs --at 100")]
    Dump {
        /// Which one
        #[arg(value_parser = PossibleValuesParser::new(Model::ALL.map(Model::name)))]
        name: String,
        /// As they were at this position
        #[arg(long, value_name = "POSITION")]
        at: Option<u64>,
    },
}

impl Projection {
    /// Does it. Rows have no other form than JSON.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let Projection::Dump { name, at } = self;
        let at = at.map(|at| format!("?at={at}")).unwrap_or_default();
        let path = format!("/projections/dump/{}{at}", encoded(&name));
        client.stream(Method::GET, &path, &mut |row| output.line(&row.to_string())).await
    }
}
