"""Instructions of LC-Rec's tasks. Words in braces are filled in: items as their ID tokens, texts as tokens of the backbone."""

FRAME = (
    "Below is an instruction that describes a task. Write a response that completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)

# Task 1: a history of IDs -> the next ID. The first wording is that of ranking.
SEQUENCE = (
    "The user bought these items in order: {history}. Which item will the user buy next?",
    "Here is the purchase history of a user: {history}. Predict the next item.",
    "After buying {history}, what is the next item for this user?",
    "A user has interacted with {history}. Recommend the item that fits next.",
    "Given the sequence of items {history}, name the item that follows.",
    "The items {history} were bought one after the other. What comes next?",
    "Based on the past purchases {history}, which item should be recommended?",
    "Continue the list of purchases: {history}.",
    "This is what a customer bought so far: {history}. What will the customer want now?",
    "Knowing that the user chose {history}, select the next item.",
    "The user's recent items are {history}. Suggest one more item.",
    "Find the item that the user will buy after {history}.",
    "With the history {history}, which item is the most likely next purchase?",
    "Think of a customer who owns {history}. Which item would be bought next?",
    "From the interactions {history}, infer the following item.",
    "Recommend an item to a user whose past items, oldest first, are {history}.",
    "What would you offer to somebody who has just bought {history}?",
)

# Task 2: a title, a description or both -> the ID.
TEXT_TO_ITEM = {
    "title": (
        "Which item has the title \"{title}\"?",
        "Name the item that is called \"{title}\".",
        "An item is titled \"{title}\". Which one is it?",
    ),
    "description": (
        "Which item is described as follows: \"{description}\"?",
        "Find the item with this description: \"{description}\".",
        "The description of an item reads \"{description}\". Which one is it?",
    ),
    "both": (
        "Which item is called \"{title}\" and described as \"{description}\"?",
        "Find the item titled \"{title}\" with the description \"{description}\".",
        "Name the item with the title \"{title}\" and this description: \"{description}\".",
    ),
}

# Task 3: the ID -> a title, a description or both.
ITEM_TO_TEXT = {
    "title": (
        "What is the title of the item {item}?",
        "Write the title of {item}.",
        "How is the item {item} called?",
    ),
    "description": (
        "Describe the item {item}.",
        "Write the description of {item}.",
        "What is known about the item {item}?",
    ),
    "both": (
        "Write the title and the description of the item {item}.",
        "How is the item {item} called, and how is it described?",
        "Give the title of {item}, and then its description.",
    ),
}

# Task 4: a history of IDs -> the next item's title or description; a history of titles -> the next ID.
MIXED = {
    "title": (
        "The user bought {history}. What is the title of the next item?",
        "Given the items {history}, write the title of the item that follows.",
        "After {history}, how is the next item of this user called?",
    ),
    "description": (
        "The user bought {history}. Describe the next item.",
        "Given the items {history}, describe the item that follows.",
        "What is the next item after {history} like?",
    ),
    "item": (
        "The user bought items with these titles: {titles}. Which item comes next?",
        "Given the titles of past purchases, {titles}, predict the next item.",
        "A customer's items are called {titles}. Which item follows?",
    ),
}

# Task 5: a history and an intention, or a preference -> the ID.
SEARCH = {
    "intention": (
        "The user bought {history} and now looks for this: \"{text}\". Which item fits?",
        "After {history}, the user searches: \"{text}\". Recommend an item.",
    ),
    "preference": (
        "The user bought {history} and has this preference: \"{text}\". Which item fits?",
        "Given the history {history} and the preference \"{text}\", recommend an item.",
    ),
}

# Task 6: a history -> the user's preference.
PREFERENCE = (
    "The user bought {history}. What does the user prefer?",
    "Summarize the preference of a user with the items {history}.",
)
