//! The file with the cluster's secret.

use std::path::Path;

/// The file's content, trimmed, or what is wrong with it in one sentence.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = path.display();
    let content =
        std::fs::read(path).map_err(|error| format!("the cluster's secret cannot be read: {file}: {error}"))?;
    let secret = content.trim_ascii();
    match secret.len() {
        16..=1024 => Ok(secret.to_vec()),
        bytes => Err(format!("the cluster's secret must have 16 to 1024 bytes: {file} has {bytes}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_trimmed_and_neither_short_nor_long() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("secret");
        assert!(read(&path).expect_err("it is not there").contains("secret"));
        for (content, right) in
            [(&b" sixteen bytes..\n"[..], false), (b"\t16 bytes of it..\r\n", true), (&[b'x'; 1025], false)]
        {
            std::fs::write(&path, content).expect("written");
            assert_eq!(read(&path).ok(), right.then(|| b"16 bytes of it..".to_vec()));
        }
    }
}
