//! The fault programme over the engine: scripts on a simulated disk, every crash, every error, every flipped byte (engine/FAULTS.md).
//!
//! Invariants: a script runs once per recording and its crashes are built from the recorded history, so what was
//! acknowledged before a crash is known exactly (the reply notes the number of disk calls made by then); a judge returns
//! what is wrong as text instead of failing, so that planted bugs can be expected; equal images are judged once.

pub mod damage;
pub mod doctor;
pub mod errors;
pub mod judge;
pub mod run;
pub mod script;
pub mod sectors;
pub mod store;
pub mod stories;
pub mod sweep;
