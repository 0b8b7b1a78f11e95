//! End-to-end, fault, format and style tests: the strict client model, the server as a process, workload and oracle.
//!
//! Nothing here is part of the product. The client model and the oracle share no code with what they judge.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::disallowed_methods,
    reason = "a test harness fails by panicking and touches files, clock and environment itself"
)]

pub mod answers;
pub mod archive;
pub mod bucket;
pub mod client;
pub mod effort;
pub mod faults;
pub mod fixtures;
pub mod fleet;
pub mod fuzz;
pub mod history;
pub mod hostile;
pub mod hub_in_process;
pub mod machines;
pub mod model;
pub mod oracle;
pub mod overload;
pub mod rows;
pub mod scratch;
pub mod seeds;
pub mod server_process;
pub mod simulation;
pub mod stopped_hub;
pub mod store_contract;
pub mod wire_rig;
pub mod workload;
