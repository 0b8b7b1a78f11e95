//! The bytes of one small pack, for ever: a change here is a change of format and needs a new version.
#![allow(clippy::disallowed_methods, reason = "golden files are read, and made, by name")]

use super::*;

fn path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../snapshots/packs/mixed-v1.pack")
}

#[test]
fn a_pack_of_version_1_is_still_read() {
    let bytes = std::fs::read(path()).expect("the golden file is part of the repository");
    let pack = PackId(Sha256::digest(&bytes).into());
    let store = MemoryStore::new();
    store.overwrite(&StoreKey::pack(pack), Bytes::from(bytes));
    let described = verify(&store, pack, &mut no_damage).unwrap();
    assert_eq!(described.origin, origin(5));
    let objects = mixed();
    for (row, payload) in described.stored.rows.iter().zip(read_all(&store, &described.stored)) {
        assert_eq!(payload.unwrap(), payload_of(&objects, row));
    }
    assert_eq!(described.stored.rows.len(), objects.len());
}

/// Also pins zstd's output: a new zstd may change it without changing the format; then write a second golden file.
#[test]
fn a_pack_is_written_byte_for_byte_as_ever() {
    let store = MemoryStore::new();
    let written = file_of(&store, &pack_of(&store, 5, &mixed()));
    if std::env::var_os("REPRISE_WRITE_GOLDEN").is_some() {
        std::fs::write(path(), &written).unwrap();
    }
    assert!(std::fs::read(path()).unwrap() == written, "the pack's bytes changed");
}
