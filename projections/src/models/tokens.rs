//! `tokens`: hash of the secret → the token. Revoked tokens keep their row.

use reprise_engine::{
    Result,
    event::TokenRecord,
    id::{Position, TokenHash, TokenId},
};

use crate::{
    encoding::{RowReader, RowWriter, scope_byte, scope_of},
    models::Model,
    store::{RowSink, Snapshot, scan_prefix},
    view::TokenRow,
};

/// Its name.
pub const NAME: &str = "tokens";
/// Its code version.
pub const VERSION: u32 = 1;

/// A token was issued or revoked; both events carry the whole record.
pub fn fold(record: &TokenRecord, revoked: bool, position: Position, sink: &mut dyn RowSink) {
    let mut row = RowWriter::new();
    row.position(position)
        .flag(revoked)
        .fixed(&record.token.0)
        .text(&record.owner)
        .flag(record.repo.is_some())
        .text(record.repo.as_deref().unwrap_or_default())
        .byte(scope_byte(record.scope))
        .int(record.issued_ms)
        .flag(record.expires_ms.is_some())
        .int(record.expires_ms.unwrap_or_default());
    sink.put(Model::Tokens, &record.hash.0, row.bytes());
}

/// A token by the hash of its secret.
pub fn get(snapshot: &dyn Snapshot, hash: TokenHash) -> Result<Option<TokenRow>> {
    let row = snapshot.get(Model::Tokens, &hash.0)?;
    row.map(|row| decode(hash, &row)).transpose()
}

/// All tokens, by id.
pub fn list(snapshot: &dyn Snapshot) -> Result<Vec<TokenRow>> {
    let mut found = Vec::new();
    scan_prefix(snapshot, Model::Tokens, &[], &mut |key, row| {
        let hash = key.try_into().map_err(|_| RowReader::new(NAME, row).damaged("its key is not a hash"))?;
        found.push(decode(TokenHash(hash), row)?);
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    found.sort_by_key(|row| row.record.token);
    Ok(found)
}

/// How many tokens of an owner are valid at `now_ms`.
pub fn count(snapshot: &dyn Snapshot, owner: &str, now_ms: u64) -> Result<usize> {
    let mut count = 0;
    scan_prefix(snapshot, Model::Tokens, &[], &mut |_, row| {
        let TokenRow { record, revoked, .. } = decode(TokenHash([0; 32]), row)?;
        let valid = !revoked && record.expires_ms.is_none_or(|end| end > now_ms);
        count += usize::from(valid && record.owner == owner);
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(count)
}

/// The token of a row.
pub fn decode(hash: TokenHash, row: &[u8]) -> Result<TokenRow> {
    let mut reader = RowReader::new(NAME, row);
    reader.position()?;
    let revoked = reader.flag()?;
    let token = TokenId(reader.fixed()?);
    let owner = reader.text()?;
    let has_repo = reader.flag()?;
    let repo = Some(reader.text()?).filter(|_| has_repo);
    let scope = scope_of(&mut reader)?;
    let issued_ms = reader.int()?;
    let expires = reader.flag()?;
    let expires_ms = Some(reader.int()?).filter(|_| expires);
    reader.end()?;
    let record = TokenRecord { token, hash, owner, repo, scope, issued_ms, expires_ms };
    Ok(TokenRow { record, revoked })
}
