//! `storage_uri`: pack → where its bytes are: its key in the object store until an event says otherwise.
//!
//! Packs belong to the object store, not to a repository: a deleted repository's packs keep their rows until they are
//! retired.

use reprise_engine::{
    Result,
    event::{ObjectsReceived, PacksRelocated},
    id::{PackId, Position},
    store::StoreKey,
};

use crate::{
    encoding::{RowReader, RowWriter},
    models::Model,
    store::{RowSink, Snapshot},
};

/// Its name.
pub const NAME: &str = "storage_uri";
/// Its code version.
pub const VERSION: u32 = 1;

/// Where a pack is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackPlace {
    /// Key in the object store, or what a relocation said; `None`: retired.
    pub uri: Option<String>,
    /// The event that said so.
    pub position: Position,
}

/// A pack was delivered under its own key.
pub fn fold_received(received: &ObjectsReceived, position: Position, sink: &mut dyn RowSink) {
    put(received.pack, Some(StoreKey::pack(received.pack).as_str()), position, sink);
}

/// Packs live elsewhere, or nowhere.
pub fn fold_relocated(relocated: &PacksRelocated, position: Position, sink: &mut dyn RowSink) {
    for (pack, uri) in &relocated.packs {
        put(*pack, uri.as_deref(), position, sink);
    }
}

/// Where a pack is; `None` if no event names it.
pub fn get(snapshot: &dyn Snapshot, pack: PackId) -> Result<Option<PackPlace>> {
    let row = snapshot.get(Model::StorageUri, &pack.0)?;
    row.map(|row| decode(&row)).transpose()
}

/// What a row says.
pub fn decode(row: &[u8]) -> Result<PackPlace> {
    let mut reader = RowReader::new(NAME, row);
    let position = reader.position()?;
    let uri = if reader.flag()? { Some(reader.text()?) } else { None };
    reader.end()?;
    Ok(PackPlace { uri, position })
}

fn put(pack: PackId, uri: Option<&str>, position: Position, sink: &mut dyn RowSink) {
    let mut row = RowWriter::new();
    row.position(position).flag(uri.is_some());
    if let Some(uri) = uri {
        row.text(uri);
    }
    sink.put(Model::StorageUri, &pack.0, row.bytes());
}
