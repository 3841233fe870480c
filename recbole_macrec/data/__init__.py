DATA_PATH = "dataset"  # in the working directory, as in RecBole: where datasets lie unless data_path says otherwise
