DATA_PATH = "dataset"  # default of data_path: a folder in the working directory, as in RecBole
