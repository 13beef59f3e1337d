//! The files hold no session id.

use std::fs;
use std::time::Duration;

use rmcp_session_policy::directory::{
    Change, Epoch, SessionDigest, SessionDirectory, StoredBody, StoredSession, Usage,
};

use crate::support::{Place, later};

#[tokio::test]
async fn no_session_id_is_in_the_files() {
    let place = Place::new();
    let directory = place.open();
    let ids: Vec<_> = (0..50).map(|number| format!("80f04fe2-5387-4a93-9fb0-4ef1f686f{number:03}")).collect();
    for (number, id) in ids.iter().enumerate() {
        let body = StoredBody::from_bytes(b"a body that is kept".as_slice());
        let session = StoredSession::new(None, Duration::ZERO, Usage::default(), body);
        let digest = SessionDigest::of(id);
        directory.write(&digest, Epoch::FIRST, Change::Opened(session));
        assert!(directory.written(&digest, later()).await);
        let data = StoredBody::from_bytes(b"data that changed".as_slice());
        let session = StoredSession::new(None, Duration::ZERO, Usage::default(), data);
        directory.write(&digest, Epoch::FIRST, Change::Data(session));
        if number % 3 == 0 {
            directory.write(&digest, Epoch::FIRST, Change::Dead);
        }
    }
    assert_eq!(directory.flush(later()).await, 0);
    let mut bytes = Vec::new();
    for name in place.names() {
        bytes.extend(fs::read(place.folder().join(name)).unwrap());
    }
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(holds(b"a body that is kept") && holds(b"data that changed"), "these are the files");
    assert!(holds(SessionDigest::of(&ids[1]).as_bytes()));
    for id in &ids {
        assert!(!holds(id.as_bytes()) && !holds(id.replace('-', "").as_bytes()));
        assert!(!holds(&id.as_bytes()[..13]), "not even a part of it");
    }
    let shown = format!("{directory:?}");
    assert!(!shown.contains(&ids[0]));
}
