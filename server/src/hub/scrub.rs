//! Reading the log once, beside everything else, after a server has started.
//!
//! Opening reads headers and footers only, whatever the log's size, so damage inside an older segment is not seen then. Here
//! every frame is read and checked against its checksum and the chain. A reader that meets damage makes the log read-only
//! ([`reprise_engine::engine::Engine::read_only`]): that is told by `/health`. Never repairs anything.

use reprise_engine::Result;

use crate::hub::Hub;

/// Reads the log to its end, or until damage, or until the server closes. Blocking.
pub fn log(hub: &Hub) {
    match segments(hub) {
        Ok(()) => {}
        Err(error) if error.is_corrupt() => {}
        Err(error) => tracing::warn!(%error, "the log could not be read through"),
    }
}

fn segments(hub: &Hub) -> Result<()> {
    for segment in hub.engine.segments() {
        let mut reader = hub.engine.read_segment(segment.first)?;
        while !hub.is_closing() && reader.next_raw()?.is_some() {}
    }
    Ok(())
}
