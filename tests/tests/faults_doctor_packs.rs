//! What the doctor makes of damaged packs (F3): each is named, with what readers miss because of it, and taken from a copy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use reprise_engine::{
    clock::SeededRandom,
    disk::{
        Disk,
        sim::{SimDisk, image::Image},
    },
    doctor::{Diagnosis, Doctor, Patient, Remedy},
    event::{EventBody, ObjectsReceived, RowsCondemned},
};
use reprise_tests::faults::{
    damage::Rest,
    doctor::{Allowed, check_kept, doctor_of, examine, go_on, interrupted, orders, segments, treat_with},
    run::{open, store_pack},
    script::{Script, Step, create, deleted, noise, proposal, push, repo},
    sectors::BadSectors,
};

fn blobs() -> Vec<Vec<u8>> {
    (0..3).map(|blob| noise(blob, 2_000).into_bytes()).collect()
}

/// A repository and its pack.
fn patient() -> (Rest, ObjectsReceived, String) {
    let pack = Step::Pack { blobs: blobs(), repo: repo(0), push: push(1_000), and: None };
    let rest = Rest::of(&Script::story("a pack", vec![Step::Append(create(0)), pack, Step::Append(create(1))]));
    let received = rest.events.iter().find_map(|event| match event {
        EventBody::ObjectsReceived(received) => Some(received.clone()),
        _ => None,
    });
    let path = rest.image.files.keys().find(|path| path.ends_with(".pack")).unwrap().clone();
    (rest, received.unwrap(), path)
}

fn findings(image: &Image) -> Diagnosis {
    examine(&SimDisk::from_image(image)).unwrap()
}

/// The log goes on with rows of its pack condemned.
fn condemned(rest: &Rest, received: &ObjectsReceived) -> Image {
    let mut rows: Vec<_> = received.rows.iter().map(|row| (row.kind, row.id)).collect();
    rows.sort_unstable();
    let event = RowsCondemned { repo: received.repo, pack: received.pack, rows, reason: "damaged".to_owned() };
    let proposal = proposal(500, Vec::new(), vec![EventBody::RowsCondemned(event)]);
    go_on(&rest.image, rest.segment_bytes, &[proposal], true)
}

/// The same objects in another pack.
fn pushed_again(rest: &Rest, image: &Image) -> Image {
    let disk = SimDisk::from_image(image);
    let (engine, _) = open(&disk, rest.segment_bytes).unwrap();
    let again = store_pack(&engine, &blobs(), repo(0), push(2_000)).unwrap();
    engine.shutdown().unwrap();
    drop(engine);
    let event = proposal(501, Vec::new(), vec![EventBody::ObjectsReceived(again)]);
    go_on(&disk.image(), rest.segment_bytes, &[event], true)
}

#[test]
fn rows_that_were_condemned_are_missed_until_they_are_pushed_again_though_the_pack_is_sound() {
    let (rest, received, _) = patient();
    let image = condemned(&rest, &received);
    let found = findings(&image);
    assert_eq!(found.damaged(), 1, "{found:#?}");
    let finding = &found.findings[0];
    assert_eq!(finding.remedy, Remedy::Push);
    assert!(finding.problem.contains("3 objects") && finding.problem.contains("sound"), "{finding:?}");
    let disk = SimDisk::from_image(&image);
    let (_, treatment) = treat_with(&disk, &orders(Some(&image), None)).unwrap();
    assert!(treatment.done.is_empty() && treatment.left.iter().any(|left| left.contains("push")), "{treatment:#?}");

    assert!(findings(&pushed_again(&rest, &image)).is_healthy());
    // Or nobody misses them any more.
    let gone = go_on(&image, rest.segment_bytes, &[deleted(502, 0)], true);
    assert!(findings(&gone).is_healthy(), "{:#?}", findings(&gone));
}

#[test]
fn a_damaged_pack_whose_rows_were_pushed_again_is_nobodys_loss() {
    let (rest, received, path) = patient();
    let mut image = condemned(&rest, &received);
    Arc::make_mut(image.files.get_mut(&path).unwrap())[200] ^= 1;
    let found = findings(&image);
    assert!(found.damaged() == 1 && found.findings[0].remedy == Remedy::CopyOrPush, "{found:#?}");
    assert!(found.findings[0].problem.contains("waits for a push"), "{found:#?}");
    assert!(findings(&pushed_again(&rest, &image)).is_healthy());
    // Not condemned: it may still be what readers are sent to.
    let image = rest.with(&path, |bytes| bytes[200] ^= 1);
    assert!(!findings(&pushed_again(&rest, &image)).is_healthy());
}

#[test]
fn a_sector_of_a_pack_that_cannot_be_read_is_damage_and_is_taken_from_a_copy() {
    let (rest, _, path) = patient();
    let disk = SimDisk::from_image(&rest.image);
    let bad = BadSectors::new(&disk, &[(path.as_str(), 512..1024)]);
    let doctor = doctor_of(Arc::new(bad)).unwrap();
    let found = doctor.examine(true, &mut |_, _| true).unwrap();
    assert!(found.damaged() == 1 && found.findings[0].file == path, "{found:#?}");
    let treatment = doctor.treat(&found, &orders(Some(&rest.image), None), "today", &mut |_, _| true);
    assert!(treatment.after.as_ref().is_some_and(Diagnosis::is_healthy), "{treatment:#?}");
    assert_eq!(disk.image().file(&path), rest.image.file(&path));
}

#[test]
fn packs_are_replaced_whole_and_kept_wherever_power_is_lost() {
    let (rest, _, path) = patient();
    let flipped = rest.with(&path, |bytes| bytes[300] ^= 1);
    let mut missing = rest.image.clone();
    missing.files.remove(&path);
    let log = segments(&rest.image).remove(0);
    let mut both = flipped.clone();
    Arc::make_mut(both.files.get_mut(&log).unwrap())[40] ^= 1;
    for damaged in [flipped, missing, both] {
        interrupted(&rest, &damaged, Allowed::Copy).unwrap();
    }
}

#[test]
fn a_copy_that_is_damaged_too_is_not_taken() {
    let (rest, _, path) = patient();
    let damaged = rest.with(&path, |bytes| bytes[300] ^= 1);
    let copy = rest.with(&path, |bytes| bytes[400] ^= 1);
    let disk = SimDisk::from_image(&damaged);
    let (_, treatment) = treat_with(&disk, &orders(Some(&copy), None)).unwrap();
    assert_eq!(disk.image().file(&path), damaged.file(&path));
    assert!(treatment.left.iter().any(|left| left.contains("the copy is damaged too")), "{treatment:#?}");
    check_kept(&damaged, &disk.image()).unwrap();
}

#[test]
fn packs_whose_store_is_not_there_are_not_looked_at() {
    let (rest, ..) = patient();
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::from_image(&rest.image));
    let patient = Patient {
        disk,
        pack_files: Arc::new(SimDisk::new()),
        bucket: None,
        pack_root: "objects/",
        random: Arc::new(SeededRandom::new(5)),
    };
    let found = Doctor::admit(patient, "a test").unwrap().examine(true, &mut |_, _| true).unwrap();
    assert_eq!((found.packs, found.damaged()), (None, 1), "{found:#?}");
    assert_eq!((found.findings[0].remedy, found.findings[0].file.as_str()), (Remedy::Person, "objects/STORE"));
}
