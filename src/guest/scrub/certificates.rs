//! Certificates of authorities. The bundles that the guest's programs made from them stay.

use super::Work;
use crate::guest::error::GuestError;

/// Why bundles stay.
const BUNDLES: &str = "bundles made from the certificates that went are as they were, as the seal \
     runs no program of the guest: a step can run `update-ca-trust` or `update-ca-certificates`";

impl Work<'_> {
    /// The table has removed the certificates.
    pub(super) fn ca_certificates(&mut self) {
        self.tell_of_bundles(0);
    }

    /// The table has removed what the enrolment wrote but for the certificates of its authority.
    pub(super) fn ipa_client(&mut self) -> Result<(), GuestError> {
        let before = self.report.removed.len();
        for path in [
            "/etc/pki/ca-trust/source/anchors/ipa-ca.crt",
            "/usr/local/share/ca-certificates/ipa-ca.crt",
            "/etc/pki/ca-trust/source/ipa.p11-kit",
        ] {
            for place in self.found(path)? {
                self.remove_file(&place)?;
            }
        }
        self.tell_of_bundles(before);
        Ok(())
    }

    fn tell_of_bundles(&mut self, removed_before: usize) {
        if self.report.removed.len() > removed_before {
            self.keep(BUNDLES);
        }
    }
}
