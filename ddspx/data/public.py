"""Public data sets: where they are, what they may be used for, how they are grouped.

Sums that a publisher or two independent users of a set have published are in the
table. Where there is none (archives that GitHub packs on demand, NSynth), the sum of
the first download is recorded and later ones are held to it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ddspx.data.download import fetch, unpack
from ddspx.data.manifest import (
    MANIFEST_NAME,
    Clip,
    Collection,
    ManifestError,
    scan_folder,
    write_manifest,
)
from ddspx.data.split import assign_splits


@dataclass(frozen=True)
class PublicSet:
    """One public data set.

    Attributes:
      name: on the command line.
      about: one line.
      url: of its archive (.zip, .tar.gz ...).
      known_hash: "sha256:..." or "md5:..."; None when none is published.
      megabytes: size of the archive, about; 0 when it is small and not known.
      licence: of the recordings.
      group: regular expression with a group "group" (speaker, piece, instrument) that
        is searched in the path of a file.
      keep: regular expression that a path must match.
      split: regular expression with a group "split" for sets with a split of their
        own; the groups that it leaves out are split by ours.
      homepage: where it is described.
    """

    name: str
    about: str
    url: str
    known_hash: str | None
    megabytes: int
    licence: str
    group: str
    keep: str = ""
    split: str = ""
    homepage: str = ""

    @property
    def archive_name(self) -> str:
        """Name of the downloaded file, unique among the sets."""
        return f"{self.name}-{self.url.rpartition('/')[2]}"


_READER = r"/(?P<group>\d+)/\d+/\d+[_-]"
_OPENSLR = "https://www.openslr.org/resources"


def _libri(kind: str, part: str, megabytes: int, sha256: str) -> PublicSet:
    number, about = {
        "libritts": (60, "read English, many speakers, 24 kHz"),
        "librispeech": (12, "read English, many speakers, 16 kHz"),
    }[kind]
    return PublicSet(
        name=f"{kind}-{part}",
        about=about,
        url=f"{_OPENSLR}/{number}/{part}.tar.gz",
        known_hash=f"sha256:{sha256}",
        megabytes=megabytes,
        licence="CC BY 4.0",
        group=_READER,
        homepage=f"https://www.openslr.org/{number}/",
    )


def _nsynth(part: str, megabytes: int) -> PublicSet:
    return PublicSet(
        name=f"nsynth-{part}",
        about="single notes of 4 s, many instruments, 16 kHz",
        url=f"http://download.magenta.tensorflow.org/datasets/nsynth/nsynth-{part}.jsonwav.tar.gz",
        known_hash=None,
        megabytes=megabytes,
        licence="CC BY 4.0",
        group=r"/(?P<group>[a-z_]+_\d{3})-\d{3}-\d{3}",
        homepage="https://magenta.tensorflow.org/datasets/nsynth",
    )


_SETS = (
    PublicSet(
        name="spoken-digits",
        about="Free Spoken Digit Dataset, English, 8 kHz",
        url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",
        known_hash=None,
        megabytes=0,
        licence="CC BY-SA 4.0",
        group=r"recordings/\d_(?P<group>[a-z]+)_\d+",
        keep=r"/recordings/",
        homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
    ),
    PublicSet(
        name="vctk",
        about="110 English speakers, 48 kHz (version 0.92, first microphone)",
        url="https://datashare.is.ed.ac.uk/bitstream/handle/10283/3443/VCTK-Corpus-0.92.zip",
        known_hash="sha256:f96258be9fdc2cbff6559541aae7ea4f59df3fcaf5cf963aae5ca647357e359c",
        megabytes=11747,
        licence="CC BY 4.0",
        group=r"/(?P<group>[ps]\d+)/",
        keep=r"_mic1\.flac$",
        homepage="https://datashare.ed.ac.uk/handle/10283/3443",
    ),
    PublicSet(
        name="daps",
        about="20 speakers in a studio, and the same on devices in rooms, 44.1 kHz",
        url="https://zenodo.org/records/4660670/files/daps.tar.gz",
        known_hash="md5:303c130b7ce2e02b59c7ca5cd595a89c",
        megabytes=16056,
        licence="CC BY-NC 4.0",
        group=r"/(?P<group>[fm]\d+)_script",
        keep=r"_script\d",
        homepage="https://zenodo.org/records/4660670",
    ),
    PublicSet(
        name="musdb18-hq",
        about="150 songs with stems, 44.1 kHz stereo WAV (MUSDB18 itself is MP4)",
        url="https://zenodo.org/records/3338373/files/musdb18hq.zip",
        known_hash="sha256:baac80d0483c61d74b2e5f3be75fa557eec52898339e6aa45c1fa48833c5d21d",
        megabytes=22657,
        licence="academic use only, see its page",
        group=r"/(?:train|test)/(?P<group>[^/]+)/",
        split=r"/(?P<split>test)/",
        homepage="https://zenodo.org/records/3338373",
    ),
    PublicSet(
        name="ljspeech",
        about="one English speaker, 24 hours, 22.05 kHz; groups are books",
        url="https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
        known_hash="sha256:be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
        megabytes=2749,
        licence="public domain",
        group=r"(?P<group>LJ\d{3})-",
        homepage="https://keithito.com/LJ-Speech-Dataset/",
    ),
    PublicSet(
        name="guitarset",
        about="6 players, 360 excerpts of 30 s, microphone, 44.1 kHz",
        url="https://zenodo.org/records/3371780/files/audio_mono-mic.zip",
        known_hash="md5:275966d6610ac34999b58426beb119c3",
        megabytes=657,
        licence="CC BY 4.0",
        group=r"(?:^|/)(?P<group>\d\d)_",
        homepage="https://zenodo.org/records/3371780",
    ),
    PublicSet(
        name="esc-50",
        about="2000 sounds of 5 s in 50 classes, 44.1 kHz; groups are source clips",
        url="https://github.com/karolpiczak/ESC-50/archive/master.zip",
        known_hash=None,
        megabytes=646,
        licence="CC BY-NC 3.0",
        group=r"/audio/\d-(?P<group>\d+)-",
        keep=r"/audio/",
        homepage="https://github.com/karolpiczak/ESC-50",
    ),
    _nsynth("test", 350),
    _nsynth("valid", 1000),
    _nsynth("train", 23000),
    _libri(
        "libritts", "dev-clean", 1291,
        "da0864e1bd26debed35da8a869dd5c04dfc27682921936de7cff9c8a254dbe1a",
    ),
    _libri(
        "libritts", "test-clean", 1231,
        "234ea5b25859102a87024a4b9b86641f5b5aaaf1197335c95090cde04fe9a4f5",
    ),
    _libri(
        "libritts", "train-clean-100", 7724,
        "c5608bf1ef74bb621935382b8399c5cdd51cd3ee47cec51f00f885a64c6c7f6b",
    ),
    _libri(
        "libritts", "train-clean-360", 27504,
        "ce7cff44dcac46009d18379f37ef36551123a1dc4e5c8e4eb73ae57260de4886",
    ),
    _libri(
        "librispeech", "dev-clean", 338,
        "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    ),
    _libri(
        "librispeech", "train-clean-100", 6387,
        "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    ),
)  # fmt: skip
PUBLIC_SETS = {item.name: item for item in _SETS}


def prepare_public(
    item: PublicSet,
    folder: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = False,
    attempts: int = 5,
    wait_s: float = 2.0,
) -> Collection:
    """Downloads, verifies, unpacks, and writes a manifest with groups and splits.

    A call that was interrupted is continued by calling again. The archive stays in
    ``folder/downloads`` and may be deleted afterwards.

    Args:
      item: usually from `PUBLIC_SETS`.
      folder: made when missing; several sets need a folder each.
      overwrite: True unpacks nothing again, but writes an existing manifest anew.
      progress: True shows a bar on standard error.
      attempts: see `ddspx.data.download.ResumingDownloader`.
      wait_s: see `ddspx.data.download.ResumingDownloader`.

    Returns:
      The clips with split and group, and the files that cannot be read.

    Raises:
      ManifestError: the folder holds a manifest already, or no audio was found.
      DownloadError: see `ddspx.data.download`.
    """
    folder = Path(folder)
    manifest = folder / MANIFEST_NAME
    if folder.exists() and not folder.is_dir():
        raise ManifestError(f"{folder}: is a file, name a folder")
    if manifest.exists() and not overwrite:
        raise ManifestError(
            f"{manifest}: exists already; choose another folder or overwrite"
        )
    content = folder / item.name
    if not content.exists():
        archive = fetch(
            item.url,
            folder / "downloads" / item.archive_name,
            known_hash=item.known_hash,
            progress=progress,
            attempts=attempts,
            wait_s=wait_s,
        )
        unpack(archive, content)
    found = scan_folder(content)
    clips = assign_splits(_described(found.clips, item, folder))
    write_manifest(manifest, clips, overwrite=overwrite)
    return Collection(clips, found.skipped)


def _described(
    clips: Iterable[Clip], item: PublicSet, folder: Path
) -> tuple[Clip, ...]:
    """Clips of the set with paths from `folder`, groups, source and licence."""
    made = []
    for clip in clips:
        path = f"{item.name}/{clip.path}"
        if not re.search(item.keep, path):
            continue
        group = re.search(item.group, path)
        split = re.search(item.split, path) if item.split else None
        changed = replace(
            clip,
            path=path,
            root=str(folder),
            group=f"{item.name}_{group['group'] if group else clip.group}",
            split=split["split"] if split else "",
            source=item.homepage or item.url,
            licence=item.licence,
            origin=clip.path,
        )
        made.append(changed)
    if not made:
        raise ManifestError(
            f"{folder / item.name}: none of its files is of the set {item.name}; "
            "delete the folder and try again"
        )
    return tuple(made)
