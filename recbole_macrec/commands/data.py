"""Prepare, import, encode or write a dataset; python -m recbole_macrec.data COMMAND --help describes each command."""
from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from recbole_macrec.commands.prepare import prepare_command
from recbole_macrec.config.options import import_command
from recbole_macrec.data import DATA_PATH, features
from recbole_macrec.data.atomic import FORMAT_OPTIONS, AtomicFormat
from recbole_macrec.data.attributes import CATEGORY_COLUMN
from recbole_macrec.data.encoders import ENCODERS, PRESETS, ModelOptions, reads_interactions
from recbole_macrec.data.encoders.content import IMAGE_FIELD, TEXT_FIELDS, ItemContent
from recbole_macrec.data.encoders.encode import MISSING_OPTIONS, Encoding, encode_missing
from recbole_macrec.data.encoders.encoded_manifest import is_imported
from recbole_macrec.data.fetch.images import REPORT, fetch_catalogue_images
from recbole_macrec.data.fetch.prepare import locked
from recbole_macrec.data.id_files import tokenization_name
from recbole_macrec.data.importers.importer import ImportRequest, Summary, import_dataset
from recbole_macrec.data.importers.raw.catalogue import count_urls
from recbole_macrec.data.importers.raw.filtering import Step
from recbole_macrec.data.importers.sources import header_of
from recbole_macrec.data.packaged import item_folder
from recbole_macrec.data.toy.toy import TOY_NAME, write_toy
from recbole_macrec.errors import UserError, nearest
from recbole_macrec.utils.arguments import CommandParser, modality_files
from recbole_macrec.utils.distributed import group
from recbole_macrec.utils.launcher import local_device
from recbole_macrec.utils.reporting import run_command

_TABLE_FORMAT = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "field_separator", "seq_separator")
_MODEL_OPTIONS = {name: field for name, field in ModelOptions.model_fields.items() if name != "model"}
_CONTENT_ENCODERS = [name for name in (*ENCODERS, *PRESETS) if not reads_interactions(name)]
_ITEM_FORMAT = ("ITEM_ID_FIELD", "field_separator", "seq_separator", "encoding")


def main(argv: list[str] | None = None) -> int:
    """Run one command; a UserError becomes one line on stderr and exit code 1."""
    return run_command(_run, sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> int:
    args = _parse(argv)
    args.run(args)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser("python -m recbole_macrec.data", __doc__)
    commands = parser.add_subparsers(title="commands", metavar="prepare|import|images|encode|toy")
    for add in (_add_prepare, _add_import, _add_encode, _add_images, _add_toy):
        add(commands)
    if not argv:
        raise UserError(f"no command; use one of: {', '.join(commands.choices)}")
    command, *arguments = argv
    if command in ("-h", "--help"):
        parser.parse(argv)
    if command not in commands.choices:
        raise UserError(f"unknown command '{command}'; use one of: {', '.join(commands.choices)}."
                        f"{nearest(command, commands.choices)}")
    if command != "prepare":
        return commands.choices[command].parse(arguments)
    args, settings = commands.choices[command].parse_known_args(arguments)
    args.settings = settings
    return args


def _add_prepare(commands) -> None:
    parser = commands.add_parser("prepare", help="download, import and encode a dataset with a source",
                                 description=_PREPARE_HELP)
    parser.add_argument("dataset", metavar="NAME", help="name of the dataset")
    _add_data_path(parser)
    parser.add_argument("--model", default="MACRec", help="prepare the dataset for this model (default: MACRec)")
    parser.add_argument("--config_files", default="", help="YAML files, separated by spaces; later ones take precedence")
    parser.set_defaults(run=prepare_command)


def _add_import(commands) -> None:
    parser = commands.add_parser("import", help="import released files, raw files or a CSV file as a dataset",
                                 description=_IMPORT_HELP)
    parser.add_argument("src", metavar="SRC", type=Path, help="a file or folder, see above")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="name of the new dataset")
    _add_data_path(parser)
    parser.add_argument("--feature", action="append", default=[], metavar="MODALITY=FILE.npy",
                        help="features of a modality; once for each modality")
    parser.add_argument("--semantic_ids", action="append", default=[], metavar="MODALITY=FILE",
                        help="published IDs, .json or .npy; several files of a modality are its tokenizations")
    parser.add_argument("--words", type=Path, metavar="FILE.npy", help="item texts as word numbers")
    parser.add_argument("--category", metavar="NAME", help="category, if SRC has raw Amazon files of several")
    parser.add_argument(
        "--core", type=int, metavar="K", help="k of the k-core filtering (default: 5 for raw Amazon files, else no filtering)"
    )
    parser.add_argument(
        "--require_image", choices=("True", "False"), help="keep only items with an image (default: True for raw Amazon files)"
    )
    _add_format_options(parser, _TABLE_FORMAT, "of tables in SRC")
    _add_overwrite(parser)
    parser.set_defaults(run=_import)


def _add_encode(commands) -> None:
    parser = commands.add_parser("encode", help="encode the features of one modality", description=_ENCODE_HELP)
    parser.add_argument("dataset", metavar="NAME", help="name of the dataset")
    _add_data_path(parser)
    parser.add_argument("--modality", required=True, help="name of the features, such as text or image")
    parser.add_argument("--encoder", metavar="NAME", help=f"one of {', '.join(_CONTENT_ENCODERS)}")
    parser.add_argument("--model", metavar="HUB_NAME_OR_FOLDER", help="any other model of Hugging Face transformers")
    for name, field in _MODEL_OPTIONS.items():
        parser.add_argument(f"--{name}", type=int if "int" in str(field.annotation) else str, help=field.description)
    parser.add_argument("--text_fields", default=",".join(TEXT_FIELDS), metavar="A,B", help="default: %(default)s")
    parser.add_argument("--image_field", default=IMAGE_FIELD, metavar="A", help="default: %(default)s")
    for kind, option in MISSING_OPTIONS.items():
        parser.add_argument(f"--{option}", choices=("mean",), help=f"items without {kind} get the mean feature of the others")
    _add_format_options(parser, _ITEM_FORMAT, "of DIR/NAME/NAME.item")
    parser.set_defaults(run=_encode)


def _add_images(commands) -> None:
    parser = commands.add_parser("images", help="download the images of an imported catalogue", description=_IMAGES_HELP)
    parser.add_argument("dataset", metavar="NAME", help="name of the dataset")
    _add_data_path(parser)
    parser.add_argument("--connections", type=int, default=16, help="number of parallel transfers (default: 16)")
    _add_format_options(parser, _ITEM_FORMAT, "of DIR/NAME/NAME.item")
    parser.set_defaults(run=_images)


def _add_toy(commands) -> None:
    parser = commands.add_parser("toy", help=f"write the synthetic dataset {TOY_NAME}", description=_TOY_HELP)
    _add_data_path(parser)
    _add_overwrite(parser)
    parser.set_defaults(run=_toy)


def _add_data_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data_path", type=Path, default=Path(DATA_PATH), metavar="DIR", help="default: %(default)s")


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace the whole existing dataset folder")


def _add_format_options(parser: argparse.ArgumentParser, options: Iterable[str], files: str) -> None:
    for option in options:
        parser.add_argument(f"--{option}", metavar="TEXT", help=f"as in RecBole, {files}")


def _format_options(args: argparse.Namespace) -> dict[str, str]:
    """Return RecBole's options for columns and separators from the command line; ``\\t`` is a tab."""
    values = {option: getattr(args, option, None) for option in FORMAT_OPTIONS.values()}
    given = {option: value.replace("\\t", "\t") for option, value in values.items() if value is not None}
    for option, value in given.items():
        if not value or option == "field_separator" and len(value) > 1:
            expected = "one character" if option == "field_separator" else "a string"
            raise UserError(f"--{option} is '{value}'; expected {expected}")
    return given


def _import(args: argparse.Namespace) -> None:
    table_options = _format_options(args)
    request = ImportRequest(
        args.src,
        feature_files=modality_files("--feature", args.feature, ".npy"),
        id_files=_id_files(args.semantic_ids),
        category=args.category,
        core=args.core,
        require_image=None if args.require_image is None else args.require_image == "True",
        words=args.words,
        table_options=table_options,
    )
    summary = import_dataset(request, args.dataset, args.data_path, args.overwrite)
    print(_describe(summary))
    if table_options:
        print(f"note: {summary.folder} has RecBole's default columns and separators, so runs need no "
              f"{', '.join(f'--{option}' for option in table_options)}")


def _encode(args: argparse.Namespace) -> None:
    if (args.encoder is None) == (args.model is None):
        raise UserError(f"encode needs either --encoder ({', '.join(_CONTENT_ENCODERS)}) or --model HUB_NAME_OR_FOLDER")
    options = {name: getattr(args, name) for name in _MODEL_OPTIONS}
    options = {key: value for key, value in options.items() if value is not None}
    simple = args.encoder is not None and args.encoder not in PRESETS
    if simple and options:
        raise UserError(f"--{next(iter(options))} is not an option of the encoder {args.encoder}; leave it out")
    features.check_modality(args.modality)
    folder = item_folder(args.data_path / args.dataset, args.dataset)
    if is_imported(folder, args.modality):
        raise UserError(
            f"{features.feature_paths(folder, args.modality)[0]} was imported, and encoding would replace it; remove the "
            "file, or choose another --modality"
        )
    chosen = args.encoder if simple else {"model": args.model or args.encoder, **options}
    form = AtomicFormat.from_config(_format_options(args))
    content = ItemContent(folder, args.dataset, _names(args.text_fields), args.image_field, form)
    with group() as processes:
        mean_for = [kind for kind, option in MISSING_OPTIONS.items() if getattr(args, option)]
        encoding = Encoding(mean_for, local_device(), show_progress=True, processes=processes)
        table = encode_missing(content, args.modality, chosen, encoding)
    if processes.first:
        rows, width = table.matrix.shape
        print(f"{features.feature_paths(folder, args.modality)[0]}: {rows:,} items x {width:,} dimensions")


def _images(args: argparse.Namespace) -> None:
    if args.connections < 1:
        raise UserError(f"--connections is {args.connections}; expected a whole number >= 1")
    folder = args.data_path / args.dataset
    if not folder.is_dir():  # the lock would create the folder above it
        raise UserError(f"dataset folder {folder} does not exist; import it: {import_command(folder, args.dataset, None)}")
    with locked(folder):
        n_images, failed = fetch_catalogue_images(folder, args.connections,
                                                  form=AtomicFormat.from_config(_format_options(args)))
    print(f"{folder}: {n_images:,} images exist, {len(failed):,} could not be downloaded")
    for item, failure in list(failed.items())[:5]:
        print(f"  {item}: {failure.reason}")
    if failed:
        print(f"all failures: {folder / REPORT}")


def _toy(args: argparse.Namespace) -> None:
    print(f"{write_toy(args.data_path, args.overwrite)}: written (synthetic)")


def _names(text: str) -> list[str]:
    """Return the names in ``text``: "a,b", or as in the option of a run "['a','b']"."""
    return [name.strip(" '\"") for name in text.strip("[] ").split(",")]


def _id_files(values: list[str]) -> dict[str, Path]:
    """Convert ``["text=a.json", "text=b.json"]`` to the files by names of IDs: ``{"text": a.json, "text@2": b.json}``."""
    numbers: Counter[str] = Counter()
    named = []
    for value in values:
        modality, _, file = value.partition("=")
        named.append(f"{tokenization_name(modality, numbers[modality])}={file}" if modality and file else value)
        numbers[modality] += 1
    return modality_files("--semantic_ids", named, ".json")


def _describe(summary: Summary) -> str:
    shapes = [f"{modality} [{rows:,} x {width}]" for modality, (rows, width) in summary.features.items()]
    items = summary.folder / f"{summary.folder.name}.item"
    columns = [column.split(":")[0] for column in header_of(items, "\t")[1:] if ":float" not in column]
    read = [column for column in (*TEXT_FIELDS, IMAGE_FIELD) if column in columns]
    none = f"none yet; a run encodes them from the columns of {items.name}: {', '.join(read)}" if read else "none"
    lines = [f"{summary.folder}: {_counts(summary)}",
             f"features: {', '.join(shapes) or none}", f"semantic IDs: {', '.join(summary.semantic_ids) or 'none'}"]
    lines += [f"{step.name}: {_counts(step)}" for step in summary.steps]
    notes = summary.notes + ([] if "text" in summary.features else _unread_texts(items.name, columns))
    if "image" not in summary.features and (count := count_urls(summary.folder)):
        options = shlex.join([summary.folder.name, f"--data_path={summary.folder.parent}"])
        command = f"python -m recbole_macrec.data images {options}"
        notes.append(f"images named by a URL: {count:,}; download them with: {command}")
    return "\n".join(lines + [f"note: {note}" for note in notes])


def _counts(of: Summary | Step) -> str:
    """Return the numbers of users, items and interactions: "1 user, 1,200 items, 5 interactions"."""
    counts = {"user": of.users, "item": of.items, "interaction": of.interactions}
    return ", ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for noun, count in counts.items())


def _unread_texts(items: str, columns: list[str]) -> list[str]:
    """Return a note if ``columns`` has texts, but none that a run encodes by default."""
    others = [column for column in columns if column not in (IMAGE_FIELD, CATEGORY_COLUMN)]
    if not others or not set(TEXT_FIELDS).isdisjoint(others):
        return []
    return [f"{items} has no column {' or '.join(TEXT_FIELDS)}: a run encodes texts only of the columns that --text_fields "
            f"names, such as --text_fields=\"{others}\""]


_PREPARE_HELP = """\
Prepare DIR/NAME from the source in its property file (properties/dataset/NAME.yaml, or one of --config_files): download files,
import and filter them, download images, encode features. A killed command can be resumed, and existing files are kept. A run
of any model does the same automatically.

Other options are those of a run, --key=value: --modalities="[text]" prepares no images, --model=SASRec only interactions.
To encode on several GPUs: torchrun --nproc_per_node=4 -m recbole_macrec.data prepare NAME."""

_TOY_HELP = f"""\
Write DIR/{TOY_NAME}, a synthetic dataset with generated users, items, texts and images; the bytes are always the same."""

_ENCODE_HELP = """\
Encode the texts or images in DIR/NAME/NAME.item, and write DIR/NAME/features/MODALITY.npy.

The model's configuration decides whether it encodes texts or images. Text features are the mean over the tokens of each field,
then over the fields. A killed command can be resumed. On several GPUs, or machines with a shared disk:

    torchrun --nproc_per_node=4 -m recbole_macrec.data encode NAME --data_path=DIR --modality=text --encoder=llama-7b"""

_IMAGES_HELP = f"""\
Download the images of DIR/NAME, a catalogue imported with the URLs of its images, to the paths in DIR/NAME/NAME.item.

Existing images are kept. DIR/NAME/{REPORT} lists those that could not be downloaded; the next call tries them again."""

_IMPORT_HELP = """\
Write DIR/NAME with RecBole's atomic files, features and semantic IDs, all keyed by item.

SRC is one of these files, or its folder:
  NAME.inter.json     released with MQL4GRec, MACRec, LC-Rec or LETTER; NAME.item2id, NAME.item.json, NAME.emb-llama-td.npy,
                      NAME.emb-ViT-L-14.npy, NAME.index.json, NAME.index_lemb.json, NAME.index_vitemb.json beside it are
                      read too
  NAME.inter          of RecBole (its separator is detected from the first line), or of MMRec with image_feat.npy and
                      text_feat.npy beside it; texts are read from NAME.item
  NAME.train.inter    with NAME.valid.inter and NAME.test.inter: RecBole's benchmark files with item_id_list
  interactions.csv    with columns user,item[,timestamp]; items.csv beside it has item, any text columns, and image, a path
                      in the folder or a URL
  raw Amazon files    CATEGORY.csv and meta_CATEGORY.json.gz of 2018, CATEGORY.jsonl.gz and meta_CATEGORY.jsonl.gz of 2023

Raw Amazon files are filtered as published: items with metadata and an image, the earliest interaction of each user and
item, then the 5-core. --core=K filters a CSV file in the same way; --core=0 keeps users and items with few interactions.

--feature MODALITY=FILE.npy: row i belongs to the item in line i of FILE.items.txt if this file is beside FILE.npy, else to item
number i (of NAME.item2id; the items of a CSV file must then be numbers, and every row is an item of the catalogue).
--words FILE.npy: integers [2, n], item numbers and word numbers; the words of an item become its text in the column title.
--semantic_ids MODALITY=FILE.json: {"0": ["<a_170>", "<b_224>", ...], ...}, keyed by item number or item; or MODALITY=FILE.npy:
whole numbers [items, levels], row i belongs to item number i, or [K, items, levels] for K tokenizations. Given several times
for a modality, the files are its tokenizations, in this order; a run reads as many as its option tokenizations says."""


if __name__ == "__main__":
    sys.exit(main())
