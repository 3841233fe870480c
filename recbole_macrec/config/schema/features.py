"""Options of a dataset: its source, and the item features that become semantic IDs."""
from typing import Annotated, Any, Literal

from recbole_macrec.config.schema.base import Described, Options, Positive, Text, option

Names = list[Text] | tuple[Text, ...]
Modalities = Annotated[Names, Described("a list of names, such as ['text', 'image']")]
Columns = Annotated[Names, Described("a list of columns, such as ['title', 'brand']")]


class FeatureOptions(Options):
    """Item features and how a dataset gets them."""

    source: Annotated[
        dict[Text, Any] | Text | None, Described("a dictionary of paths and download addresses, synthetic, or None")
    ] = option(None, "Where the dataset is downloaded from on first use; None: it is in data_path")
    modalities: Modalities | None = option(None, "Item features that become semantic IDs; None: all that the dataset has")
    max_modalities: Positive | None = option(None, "Number of `modalities`, from the first, that the model reads; None: all")
    encoders: Annotated[dict[Text, Any] | None, Described("a dictionary such as {text: tfidf, image: pixels}, or None")] = (
        option(
            {"text": "tfidf", "image": "pixels"},
            "Encoder of modalities without imported features: tfidf, pixels, cooccurrence, minilm, llama-7b, clip-vit-l-14, "
            "or any model of transformers as {model: HUB_NAME_OR_FOLDER}",
        )
    )
    text_fields: Columns | None = option(["title", "description"], "Columns of the .item file that a text encoder reads")
    image_field: Text | None = option("image", "Column of the .item file with image paths")
    missing_images: Literal["drop", "mean"] | None = option(
        None,
        "Items without an image: mean gives them the mean feature; drop removes them from a dataset with a source, when it is "
        "downloaded; None: drop in downloads, else an error",
    )
    missing_texts: Literal["mean"] | None = option(
        None, "Items without a text: mean gives them the mean feature; None: an error"
    )
