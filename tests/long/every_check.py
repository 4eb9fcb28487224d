"""All checks, with the number of cases in `make test-long` and in the ordinary suite."""

from collections.abc import Callable
from dataclasses import dataclass

import downloads
import full_disks
import fuzzed_calls
import fuzzed_files
import laws
import many_pictures
import many_rows
from outcomes import Tally


@dataclass(frozen=True)
class Check:
    run: Callable[[Tally, int], None]
    cases: int
    few: int

    def tally(self, cases: int) -> Tally:
        tally = Tally()
        self.run(tally, cases)
        return tally

    @property
    def what(self) -> str:
        return self.run.__name__.replace("_", " ")


CHECKS = {
    check.what: check
    for check in (
        Check(fuzzed_calls.images_and_targets, 5000, 40),
        Check(fuzzed_calls.lengths_of_targets, 2000, 30),
        Check(fuzzed_calls.texts, 5000, 60),
        Check(fuzzed_calls.words, 3000, 40),
        Check(fuzzed_calls.options, 5000, 60),
        Check(fuzzed_calls.overlays, 5000, 60),
        Check(fuzzed_files.picture_files, 5000, 40),
        Check(fuzzed_files.damaged_pictures, 10_000, 60),
        Check(fuzzed_files.cut_checkpoints, 1_000_000, 60),
        Check(fuzzed_files.flipped_checkpoints, 4000, 60),
        Check(fuzzed_files.code_in_files, 1000, 60),
        Check(fuzzed_files.damaged_batches, 20_000, 100),
        Check(fuzzed_files.features_of_emotions, 3000, 40),
        Check(laws.laws_of_methods, 420, 14),
        Check(laws.laws_of_cams, 630, 6),
        Check(laws.flat_memory, 10_000, 60),
        Check(downloads.unreliable_servers, 160, 16),
        Check(downloads.servers_that_never_end, 2, 0),
        Check(downloads.two_at_once, 20, 1),
        Check(full_disks.full_disks, 800, 16),
        Check(many_pictures.killed_runs, 5000, 0),
        Check(many_rows.pages_of_many_rows, 10_000, 0),
    )
}
