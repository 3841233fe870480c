"""Import raw Amazon Reviews of 2018 and 2023, any category, with the published filtering."""
from __future__ import annotations

import numpy as np

from recbole_macrec.data.importers.raw.catalogue import Catalogue, FilterOptions
from recbole_macrec.data.importers.raw.filter_source import as_source
from recbole_macrec.data.importers.raw.filtering import WITH_IMAGE, Filtering, k_core
from recbole_macrec.data.importers.raw.find import RawFiles
from recbole_macrec.data.importers.raw.lines import LineCounts
from recbole_macrec.data.importers.raw.metadata import COLUMNS, read_listings, texts
from recbole_macrec.data.importers.raw.records import Record, Records
from recbole_macrec.data.importers.raw.reviews import read_reviews
from recbole_macrec.errors import UserError


def read_amazon(files: RawFiles, options: FilterOptions, records: Records) -> Catalogue:
    """Keep the earliest interaction of each user and item, items with metadata (and an image), and the k-core of the rest.

    The metadata are read once. Memory holds two flags for every item with reviews. Texts are written to ``records``, but only
    those of items in the k-core of all interactions: every later step keeps a subset of these items.
    """
    if options.core is None:
        raise ValueError("options.core is None; raw Amazon files need a minimum number of interactions, such as 5")
    reviews = read_reviews(files.reviews, files.kind)
    filtering = Filtering(reviews.interactions)
    filtering.keep_earliest()
    candidate = np.zeros(len(reviews.items), dtype=bool)
    candidate[filtering.left.items[k_core(filtering.left, options.core)]] = True

    has_metadata, has_image = (np.zeros(len(reviews.items), dtype=bool) for _ in range(2))
    number = {item: i for i, item in enumerate(reviews.items)}
    metadata_counts = LineCounts()
    for listing in read_listings(files.metadata, files.kind, metadata_counts):
        i = number.get(listing.item)
        # The first entry of an item is used, unless only a later one has images.
        if i is None or has_metadata[i] and (has_image[i] or not listing.images):
            continue
        has_metadata[i], has_image[i] = True, bool(listing.images)
        if candidate[i]:
            records.put(Record(listing.item, texts(listing, files.kind), listing.images))
    if not has_metadata.any():
        raise UserError(f"{files.metadata} has no item of {files.reviews}; use files of one category and one release")

    filtering.keep("items with metadata", has_metadata[filtering.left.items])
    if options.require_image:
        filtering.keep(WITH_IMAGE, has_image[filtering.left.items])
    filtering.keep_core(options.core)
    return Catalogue(as_source(files.reviews, filtering, reviews.users, reviews.items), COLUMNS, records,
                     bool(has_image[filtering.left.items].any()), filtering.steps,
                     {files.reviews.name: reviews.line_counts, files.metadata.name: metadata_counts})
